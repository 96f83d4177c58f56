"""What stands after --model: parsing, types, defaults, and the lines for what is wrong."""

from pathlib import Path
from typing import Literal

import pytest

from vtbench.errors import UnknownName, UsageError
from vtbench.zoo.spec import parse, user_params, with_states

OFFERED = {"card": None, "weights": None, "state_key": "auto", "allow_code": False, "budget": None, "at": ""}


def test_names_parameters_budgets_and_bare_words():
    assert parse("tiny").name == "tiny" and parse("tiny").params == {}
    spec = parse("jpeg:quality=30,subsampling=4:4:4")
    assert spec.name == "jpeg" and spec.params == {"quality": "30", "subsampling": "4:4:4"}
    assert parse("tiny:tokens=64").budget == 64
    assert parse("precomputed:/data/a=b/c").at == "/data/a=b/c"
    assert parse("diffusers:stabilityai/sd-vae-ft-mse,variant=fp16").at == "stabilityai/sd-vae-ft-mse"


def test_code_is_told_from_names():
    assert parse("mine.py:build,k=3").is_code() and parse("mine.py:build").short() == "mine:build"
    assert parse("pkg.mod:attr").is_code()
    assert not parse("jpeg:quality=30").is_code() and not parse("diffusers:a/b").is_code()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names nothing"),
        (":k=3", "names nothing"),
        ("jpeg:quality=1,quality=2", "quality twice"),
        ("tiny:tokens=0", "at least 1"),
        ("tiny:tokens=many", "not 'many'"),
        ("precomputed:a,b", "both 'a' and 'b'"),
    ],
)
def test_specs_that_say_nothing_sensible(text, says):
    with pytest.raises(UsageError, match=says):
        parse(text)


def made(
    *,
    card=None,
    count: int = 3,
    rate: float | None = None,
    flag: bool = False,
    mode: Literal["a", "b"] = "a",
    where: Path | None = None,
    loose=2,
):
    """An adapter's signature."""


def resolve(text, defaults=None):
    return user_params(made, parse(text), OFFERED, defaults or {})[1]


def test_values_become_the_types_of_the_signature():
    assert resolve("m") == {"count": 3, "flag": False, "loose": 2, "mode": "a", "rate": None, "where": None}
    got = resolve("m:count=7,rate=0.5,flag=true,mode=b,where=/x,loose=9")
    assert got == {"count": 7, "flag": True, "loose": 9, "mode": "b", "rate": 0.5, "where": Path("/x")}
    assert resolve("m:rate=none")["rate"] is None
    assert resolve("m", {"count": 5})["count"] == 5  # a card's default stands before the signature's


def test_a_function_with_any_keywords_takes_literals():
    params = user_params(lambda **k: k, parse("m:a=1,b=0.5,c=x,d=true"), OFFERED, {})[1]
    assert params == {"a": 1, "b": 0.5, "c": "x", "d": True}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("m:count=x", "m:count is int, not 'x'"),
        ("m:flag=maybe", "m:flag is bool"),
        ("m:mode=c", "one of a, b"),
        ("m:word", "takes parameters as key=value, not 'word'"),
    ],
)
def test_values_of_the_wrong_type(text, says):
    with pytest.raises(UsageError, match=says):
        resolve(text)


def test_unknown_parameters_show_the_nearest_or_all():
    with pytest.raises(UnknownName, match=r"'cuont'.*Did you mean count"):
        resolve("m:cuont=3")
    with pytest.raises(UnknownName, match=r"It has: count, rate, flag"):
        resolve("m:zzz=3")


def test_a_parameter_without_a_default_must_be_given():
    with pytest.raises(UsageError, match="needs the parameter size"):
        user_params(lambda *, size: size, parse("m"), OFFERED, {})
    with pytest.raises(UsageError, match="needs a path"):
        user_params(lambda *, at: at, parse("m"), OFFERED, {})


def test_both_states_of_a_checkpoint_are_two_models():
    assert with_states(["a", "b:k=1"], "ema") == ["a", "b:k=1"]
    both = with_states(["a", "b:k=1"], "both")
    assert both == ["a:state_key=model", "a:state_key=ema", "b:k=1,state_key=model", "b:k=1,state_key=ema"]
    spec = parse(both[-1])
    assert spec.state_key == "ema" and spec.params == {"k": "1"} and spec.label() == "b:k=1,state_key=ema"
