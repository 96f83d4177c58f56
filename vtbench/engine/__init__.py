"""The torch-free core: chunks, the measurement store, and the loop that fills it."""
