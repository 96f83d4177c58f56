"""`metrics/` is reached as `vtbench.metrics` only, and stays free of torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from vtbench._source import folder

ROOT = Path(__file__).parent.parent


def test_no_init_and_no_absolute_import_of_the_folder() -> None:
    assert not (folder("metrics") / "__init__.py").exists()
    for path in [*ROOT.glob("vtbench/**/*.py"), *folder("metrics").glob("*.py"), *ROOT.glob("tests/**/*.py")]:
        for line in path.read_text().splitlines():
            assert not line.startswith(("import metrics", "from metrics")), f"{path}: a second copy of the module"


def test_metrics_import_no_torch() -> None:
    code = "import sys; from vtbench.registry import metrics; assert len(metrics()) > 5; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_metric_states_its_facts() -> None:
    from vtbench.registry import metrics

    for found in metrics().values():
        assert found.title, f"{found.name} has no title"
        assert found.compute.__doc__ or found.source, f"{found.name} says nothing of its source"
