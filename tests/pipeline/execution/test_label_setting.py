"""The setting `label`: what a plan makes of it for a conditional and an unconditional generator."""

import pytest

from generators.checkpoints import save_generator
from pipeline.errors import ConfigError
from stages.images.labels import LabelMember
from tests import tiny
from tests.generators.published import tiny as tiny_stylegan2

CONDITIONAL = "generator.checkpoint=conditional.safetensors"


@pytest.fixture
def conditional(fresh):
    generator = tiny_stylegan2(tiny.SIDE_PX, c_dim=7, z_dim=8, w_dim=8, channel_max=8)
    save_generator(generator, fresh.folder / "conditional.safetensors", about="random")
    return fresh


@pytest.mark.parametrize(
    ("setting", "label"),
    [
        ("label=6", 6),
        ("label={member: cls}", LabelMember()),
        ("label={member: json, field: meta.class}", LabelMember(member="json", field="meta.class")),
    ],
)
def test_both_inverting_stages_are_told_it_and_depend_on_it(conditional, setting: str, label):
    plan, plain = conditional.plan(CONDITIONAL, setting), conditional.plan(CONDITIONAL)
    assert plan.error_maps().stage.label == label
    assert plan.error_maps().fingerprint != plain.error_maps().fingerprint
    assert plain.error_maps().stage.label is None


def test_a_class_that_the_generator_does_not_have_is_refused_before_any_work(conditional):
    with pytest.raises(ConfigError, match="label: the generator has the classes 0 to 6, got 7"):
        conditional.plan(CONDITIONAL, "label=7").error_maps()


@pytest.mark.parametrize("setting", ["label=0", "label={member: cls}"])
def test_an_unconditional_generator_has_no_labels(fresh, setting: str):
    with pytest.raises(ConfigError, match="label: the generator is unconditional, and images have no class"):
        fresh.plan(setting).error_maps()


@pytest.mark.parametrize("setting", ["label=-1", "label=cat", "label={member: cls, kind: x}"])
def test_a_setting_that_is_not_a_label_is_refused_with_its_name(fresh, setting: str):
    with pytest.raises(ConfigError, match="label"):
        fresh.plan(setting)
