"""The configurations in `examples/`: with stand-ins for their networks, each is planned as a user would plan it."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from braceexpand import braceexpand

from pipeline.config import RunConfig, load_config
from pipeline.data.stores import Stores
from pipeline.plan.plan import Plan
from stages.inversion.starts import EncoderStart
from stages.segmentation import HuggingFace, SegmentInput
from stages.segmentation.huggingface import INSTANCES
from tests.pipeline import stand_ins
from tests.stages import huggingface_models as models

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))
PUBLISHED_SPACES = {"imagenet": ("Z+", "F2")}
MERGE = re.compile(r"^ {6}(?P<source>\d+): (?P<label>\d+) # (?P<source_name>\S+) to (?P<label_name>\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """A copy of an example in a folder that has everything it names."""

    root: Path
    path: Path

    @property
    def config(self) -> RunConfig:
        return load_config(self.path)

    @property
    def plan(self) -> Plan:
        return Plan(self.config, Stores.from_config(self.config))


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Example]:
    """Return a function that provides an example by its name, once."""
    pytest.importorskip("transformers")
    constants = pytest.importorskip("huggingface_hub.constants")
    shared = tmp_path_factory.mktemp("shared")
    stand_ins.write_shared(shared)
    made: dict[str, Example] = {}

    def provide(name: str) -> Example:
        root = made[name].root if name in made else tmp_path_factory.mktemp(name)
        cache = root / "hub"  # of each example, whose models see other classes
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        found = Example(root, root / "run.yaml")
        shutil.copy(EXAMPLES / f"{name}.yaml", found.path)
        if name not in made:
            stand_ins.provide(found.config, root, shared, cache)
        made[name] = found
        return found

    with pytest.MonkeyPatch.context() as patch:
        yield provide


def test_there_is_an_example_of_every_experiment_of_the_thesis():
    assert NAMES == ["cars", "cats", "faces", "horses", "imagenet"]


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_planned_with_its_splits_spaces_and_published_steps(example, invertmill, name: str):
    found = example(name)
    code, output, errors = invertmill("plan", found.path)
    assert code == 0, errors
    assert "2 shards, 2 of them new" in " ".join(output.split())
    plan, config = found.plan, found.config
    assert plan.spaces == PUBLISHED_SPACES.get(name, ("W+", "F4", "F6", "F8", "F10"))
    assert (config.error_maps.schedule.steps, config.invert.schedule.steps) == (501, 1001)
    assert config.refine_maps.threshold == pytest.approx(0.225)
    roles = {listed.name.split("-")[0]: plan.supervision.trains_on(listed.name) for listed in plan.listed}
    assert roles == {"supervision": True, "evaluation": False}


@pytest.mark.parametrize("name", NAMES)
def test_the_comments_of_a_merge_name_the_classes_of_its_network(example, name: str):
    found = example(name)
    source = found.config.refine_maps.segmentation
    classes = stand_ins.classes_of(source, found.root)
    text = (EXAMPLES / f"{name}.yaml").read_text()
    commented = {int(line["source"]): int(line["label"]) for line in MERGE.finditer(text)}
    assert commented == source.merge
    for line in MERGE.finditer(text):
        assert (classes[int(line["source"])], classes[int(line["label"])]) == (line["source_name"], line["label_name"])


@pytest.mark.parametrize("name", NAMES)
def test_the_merges_of_an_example_act_on_what_its_network_sees(example, name: str):
    source = example(name).config.refine_maps.segmentation.model_copy(update={"download": False})
    (labels_HW,) = source.load("cpu")([SegmentInput(models.mosaic())])
    seen = stand_ins.seen(source)
    assert set(np.unique(labels_HW[labels_HW >= 0] % INSTANCES)) == {source.merge.get(seen, seen)}


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_says_where_every_file_of_an_example_comes_from(name: str):
    text = (EXAMPLES / "README.md").read_text()
    listed = {found for quoted in re.findall(r"`([^`\n]+)`", text) for found in braceexpand(quoted)}
    config = load_config(EXAMPLES / f"{name}.yaml")
    source = config.refine_maps.segmentation
    assert isinstance(source, HuggingFace)
    files = [Path(config.generator.checkpoint), config.perceptual.weights, config.train_segmenter.network.weights]
    files += [config.invert.start.encoder.checkpoint] if isinstance(config.invert.start, EncoderStart) else []
    wanted = {path.name for path in (*files, source.folder) if path is not None} | ({source.hub} - {None})
    assert wanted <= {found.rstrip("/") for found in listed}


WRONG = {
    "a region that leaves the canvas": ("cars", "top: 64", "top: 164", "leave the canvas of 512 x 512"),
    "a class that the network lacks": ("cars", "102: 20", "1020: 20", r"lists \[1020\].*correct the numbers"),
    "a class of another network": ("faces", "17: 1", "27: 1", r"classes 0 to 18, and .*lists \[27\]"),
    "a space of another generator": ("imagenet", "[Z+, F2]", "[Z+, F4]", "spaces: "),
    "a class that images cannot have": ("imagenet", "label: { member: cls }", "label: 1000", "label: .*1000"),
    "a misspelt key": ("horses", "fuse:", "fused:", "unknown key"),
    "another encoder": ("horses", "e4e_horse", "e4e_cars", "e4e_cars"),
    "another digest": ("cats", "sha256: null", f"sha256: {64 * 'a'}", "SHA-256"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_plan_refuses_an_example_with(example, invertmill, case: str):
    name, right, wrong, message = WRONG[case]
    found = example(name)
    text = found.path.read_text()
    assert right in text
    found.path.write_text(text.replace(right, wrong, 1))
    code, _, errors = invertmill("plan", found.path)
    assert code == 2
    assert re.search(message, " ".join(errors.split())), errors
