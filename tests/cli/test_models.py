"""`vtbench models` and `vtbench weights`."""

import json

import pytest
import torch
from typer.testing import CliRunner

from vtbench.cli.models import app as models
from vtbench.cli.weights import app as weights
from vtbench.errors import MissingPackage, MissingWeights, UnknownName, UsageError

RUN = CliRunner()


@pytest.fixture(autouse=True)
def _own_path(tmp_path, monkeypatch):
    monkeypatch.setenv("VTBENCH_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def halves(folder):
    from vtbench.zoo.taesd import decoder, encoder

    folder.mkdir(parents=True)
    for half, net in (("encoder", encoder(32, True)), ("decoder", decoder(32, True))):
        torch.save({f"module.{k}": v for k, v in net.state_dict().items()}, folder / f"taef2_{half}.pth")


def test_list_shows_every_model_and_whether_it_runs():
    found = RUN.invoke(models, ["list"])
    assert found.exit_code == 0
    lines = {line.split()[0]: line for line in found.stdout.splitlines() if line.strip()}
    assert lines["tiny"].rstrip().endswith("yes") and "no: no weights here (taef2/taef2_encoder.pth" in lines["taef2"]
    assert "32" in lines["titok-l32"] and "4096" in lines["titok-l32"] and "Apache-2.0" in lines["titok-l32"]
    assert "1-256" in lines["flextok"] and "no: no environment: vtbench models setup flextok" in lines["flextok"]
    assert "8 x 4096" in lines["unitok"]


def test_list_as_json_owns_stdout(tmp_path):
    halves(tmp_path / "weights" / "taef2")
    rows = {row["name"]: row for row in json.loads(RUN.invoke(models, ["list", "--json"]).stdout)}
    assert rows["taef2"]["runs"] and rows["taef2"]["tokens"] == "1024 continuous"
    assert rows["layton"] | {"why": ""} == rows["layton"] | {"why": "", "runs": False}
    only = json.loads(RUN.invoke(models, ["list", "--json", "--runs"]).stdout)
    assert {r["name"] for r in only} == {n for n, r in rows.items() if r["runs"]}


def test_show_tells_digests_the_key_report_and_parameters(tmp_path):
    halves(tmp_path / "weights" / "taef2")
    facts = json.loads(RUN.invoke(models, ["show", "taef2", "--json"]).stdout)
    assert facts["loads"] == "yes" and facts["parameters counted"] == {"encoder": "1.34 M", "decoder": "1.34 M"}
    assert facts["weights notes"] == ["stripped 'module.'"]
    assert facts["files"][0]["digest"] == "not the published file's" and len(facts["files"][0]["sha256"]) == 64
    text = RUN.invoke(models, ["show", "taef2"]).stdout
    assert "weights licence: MIT" in text and "runs here: yes" in text


def test_show_without_weights_says_so():
    text = RUN.invoke(models, ["show", "titok-l32"]).stdout
    assert "found no" in text and "yucornetto/tokenizer_titok_l32_imagenet" in text and "rfid@imagenet-val 2.21" in text
    text = RUN.invoke(models, ["show", "flextok"]).stdout
    assert "runs here: no: no environment" in text and "`vtbench models setup flextok`" in text


def test_show_of_a_wrong_file_is_a_line(tmp_path):
    (tmp_path / "wrong.pth").write_bytes(b"PK nonsense")
    text = RUN.invoke(models, ["show", "taef2", "--weights", str(tmp_path / "wrong.pth")]).stdout
    assert "loads: no: " in text


def test_unknown_names():
    assert isinstance(RUN.invoke(models, ["show", "flextock"]).exception, UnknownName)
    assert isinstance(RUN.invoke(weights, ["show", "nothing"]).exception, UnknownName)


def test_weights_list_and_show(tmp_path):
    halves(tmp_path / "weights" / "taef2")
    told = json.loads(RUN.invoke(weights, ["list", "--json"]).stdout)
    assert told["folders"][0] == str(tmp_path / "weights") and {f["model"] for f in told["files"]} == {
        "taef2",
        "taef2-q",
    }
    assert "titok-l32 weights: not here" in RUN.invoke(weights, ["list", "--all"]).stdout
    assert "weights: MIT" in RUN.invoke(weights, ["show", "taef2"]).stdout


class Hub:
    """Stands for huggingface_hub: counts what is asked of it."""

    class errors:
        class HfHubHTTPError(Exception):
            pass

    def __init__(self, fails=None):
        self.fails, self.fetched = fails, []

    def HfApi(self):
        return self

    def model_info(self, repository, timeout):
        if self.fails is not None:
            raise self.fails

        class Info:
            gated = False

            class card_data:
                @staticmethod
                def to_dict():
                    return {"license": "apache-2.0"}

        return Info

    def hf_hub_download(self, repository, path, **where):
        self.fetched.append((repository, path, where))
        return f"/cache/{path}"


def with_hub(monkeypatch, hub):
    monkeypatch.setattr("vtbench.hub._hub", lambda: hub)
    return hub


def test_fetching_shows_the_licence_and_asks_first(monkeypatch, tmp_path):
    hub = with_hub(monkeypatch, Hub())
    refused = RUN.invoke(weights, ["fetch", "titok-l32"], input="n\n")
    assert refused.exit_code == 1 and hub.fetched == []
    assert "licence on the card: Apache-2.0" in refused.output and "licence on the hub: apache-2.0" in refused.output
    done = RUN.invoke(weights, ["fetch", "titok-l32", "--yes", "--out", str(tmp_path)])
    repository = "yucornetto/tokenizer_titok_l32_imagenet"
    assert done.exit_code == 0 and hub.fetched == [
        (repository, "model.safetensors", {"local_dir": str(tmp_path / repository)})
    ]
    assert done.stdout.splitlines()[-1] == "/cache/model.safetensors"


class GatedRepoError(OSError):
    pass


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (GatedRepoError("403"), "is gated.*HF_TOKEN"),
        (ConnectionError("no route"), "cannot be reached.*VTBENCH_WEIGHTS"),
        (OSError("offline"), "cannot be reached"),
    ],
)
def test_a_gated_repository_and_no_network_are_lines(monkeypatch, failure, says):
    hub = with_hub(monkeypatch, Hub(failure))
    found = RUN.invoke(weights, ["fetch", "titok-l32", "--yes"])
    assert (
        isinstance(found.exception, MissingWeights)
        and __import__("re").search(says, str(found.exception))
        and hub.fetched == []
    )


def test_the_real_client_without_a_network_is_a_line(monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = RUN.invoke(weights, ["fetch", "hub:owner/name", "--yes"])
    assert isinstance(found.exception, MissingWeights) and "cannot be reached for owner/name" in str(found.exception)


def test_weights_that_are_not_on_the_hub(monkeypatch):
    found = RUN.invoke(weights, ["fetch", "taef2", "--yes"])
    assert isinstance(found.exception, UsageError) and "github.com/madebyollin/taesd" in str(found.exception)
    assert isinstance(RUN.invoke(weights, ["fetch", "resize"]).exception, UsageError)
    assert isinstance(RUN.invoke(weights, ["fetch", "hub:owner"]).exception, UsageError)


def test_fetching_without_the_client_is_a_line(monkeypatch):
    real = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda n, *a: None if n == "huggingface_hub" else real(n, *a))
    found = RUN.invoke(weights, ["fetch", "titok-l32", "--yes"])
    assert isinstance(found.exception, MissingPackage) and "vtbench[hub]" in str(found.exception)
