"""The configuration: validated whole, with errors that name the key and what would be right."""

import functools
import os
import re
from pathlib import Path

import pytest

from pipeline.config import load_config
from pipeline.data.stores import Stores
from pipeline.errors import ConfigError
from stages.engine.schedule import Schedule
from stages.inversion.starts import EncoderStart, Learnt, Mean

MINIMAL = "input: shards/*.tar\noutput: store\nfolder: out\ngenerator: {checkpoint: g.safetensors}\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_relative_paths_are_those_of_the_file(tmp_path):
    config = load_config(write(tmp_path, MINIMAL))
    assert config.inputs == (str(tmp_path / "shards/*.tar"),)
    assert config.output == str(tmp_path / "store")
    assert config.generator.checkpoint == tmp_path / "g.safetensors"


@pytest.mark.parametrize("key", ["output", "folder", "generator.checkpoint", "perceptual.weights"])
def test_a_home_folder_that_is_not_there_is_told(tmp_path, key):
    with pytest.raises(ConfigError, match=r"home folder of '~nobody-of-this-name/x'.*write the path itself"):
        load_config(write(tmp_path, MINIMAL), [f"{key}=~nobody-of-this-name/x"])


def test_a_configuration_may_lie_in_a_folder_whose_name_looks_like_a_pattern(tmp_path):
    folder = tmp_path / "set [1] {a,b} *?"
    (folder / "shards").mkdir(parents=True)
    (folder / "shards/a.tar").write_bytes(b"x")
    for address in ("shards", "shards/", "shards/*.tar", "shards/a.tar"):
        stores = Stores.from_config(load_config(write(folder, MINIMAL), [f"input={address}"]))
        assert [listed.entry.name for listed in stores.shards()] == ["a.tar"]


def test_an_input_that_reaches_into_the_output_is_refused(tmp_path):
    (tmp_path / "store/bundles/invert").mkdir(parents=True)
    (tmp_path / "store/bundles/invert/arrays.tar").write_bytes(b"x")
    (tmp_path / "store/a.tar").write_bytes(b"x")
    assert len(Stores.from_config(load_config(write(tmp_path, MINIMAL), ["input=store"])).shards()) == 1
    with pytest.raises(ConfigError, match=r"input .*/store/\*\*/\*.tar reaches into the output"):
        Stores.from_config(load_config(write(tmp_path, MINIMAL), ["input=store/**/*.tar"])).shards()


def test_a_shard_that_several_addresses_name_is_read_once(tmp_path):
    (tmp_path / "shards/b").mkdir(parents=True)
    for name in ("a.tar", "b/a.tar"):
        (tmp_path / "shards" / name).write_bytes(b"x")
    config = load_config(write(tmp_path, MINIMAL), ["input=[shards, shards/**/*.tar, shards/b/]"])
    stores = Stores.from_config(config)
    assert [(listed.address, listed.entry.name) for listed in stores.shards()] == [(0, "a.tar"), (1, "b/a.tar")]
    assert stores.warnings == ("input: 2 shards are named by an earlier address too; each is read once",)
    (only,) = Stores.from_config(load_config(write(tmp_path, MINIMAL), ["input=shards"])).shards()
    assert (only.address, only.entry.name) == (0, "a.tar")


def test_a_thousand_shards_of_sixteen_folders_are_found_with_one_look_at_each(tmp_path, monkeypatch):
    folders = [f"part-{number:02d}" for number in range(16)]
    for folder in folders:
        (tmp_path / folder).mkdir()
        for number in range(64):
            (tmp_path / folder / f"{number:03d}.tar").write_bytes(b"x")
    scanned, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(Path(path).name) or scandir(path))
    config = load_config(write(tmp_path, MINIMAL), [f"input=[{', '.join(folders)}]"])
    stores = Stores.from_config(config)
    stores.check(write=False)
    assert len(stores.shards()) == 1024
    assert sorted(name for name in scanned if name in folders) == folders


def test_addresses_with_a_scheme_are_left_alone(tmp_path):
    config = load_config(write(tmp_path, MINIMAL), ["output=s3://bucket/run", "input=[s3://in/*.tar, more/*.tar]"])
    assert config.output == "s3://bucket/run"
    assert config.inputs == ("s3://in/*.tar", str(tmp_path / "more/*.tar"))


def test_a_checkpoint_is_a_path_or_an_address(tmp_path):
    for address in ("s3://bucket/g.pkl", "https://host/a/g.pkl?signature=secret", "file:///g.pkl"):
        generator = load_config(write(tmp_path, MINIMAL), [f"generator.checkpoint={address}"]).generator
        assert generator.checkpoint == address
        assert generator.name == "g.pkl"
    for wrong in ("3", "[a]"):
        with pytest.raises(ConfigError, match=r"generator\.checkpoint: .*must be a path or an address"):
            load_config(write(tmp_path, MINIMAL), [f"generator.checkpoint={wrong}"])


def test_a_digest_is_64_hexadecimal_digits(tmp_path):
    config = load_config(write(tmp_path, MINIMAL), [f"generator.sha256={'A' * 64}"])
    assert config.generator.sha256 == "a" * 64
    with pytest.raises(ConfigError, match=r"generator\.sha256"):
        load_config(write(tmp_path, MINIMAL), ["generator.sha256=abc"])


def test_what_is_printed_of_an_address_has_no_signature(tmp_path):
    config = load_config(write(tmp_path, MINIMAL), ["generator.checkpoint=https://me:secret@host/g.pkl?sig=secret"])
    assert "secret" not in str(config.model_dump(mode="json"))
    assert config.generator.checkpoint.count("secret") == 2


def test_defaults_are_those_of_the_thesis(tmp_path):
    config = load_config(write(tmp_path, MINIMAL))
    assert config.refine_maps.threshold == 0.225
    assert (config.invert.schedule.steps, config.error_maps.schedule.steps) == (1001, 501)
    assert config.invert.start == config.error_maps.start == Mean()
    assert config.perceptual.backbone == "vgg"


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        ((), Mean),
        (("invert.start={kind: learnt}",), Learnt),
        (("invert.start_samples=8",), Learnt),
        (("invert.start={kind: encoder, encoder: {checkpoint: e4e.pt}}",), EncoderStart),
        (("invert.method={kind: hybrid, encoder: {kind: sam}}",), EncoderStart),
    ],
)
def test_a_schedule_of_null_is_that_of_the_start(tmp_path, overrides, start):
    path = write(tmp_path, MINIMAL)
    assert load_config(path, [*overrides, "invert.schedule=null"]).invert.schedule == start.schedule
    assert load_config(path, overrides).invert.schedule == Schedule()


def test_the_schedule_of_the_thesis_is_given_by_its_name(tmp_path):
    path = write(tmp_path, MINIMAL + "error_maps: {schedule: thesis}\ninvert: {schedule: {steps: 50}}\n")
    assert load_config(path).error_maps.schedule == Schedule(steps=501)
    assert load_config(path, ["invert.schedule=thesis"]).invert.schedule == Schedule()
    with pytest.raises(ConfigError, match=r"invert\.schedule: .*no schedule is named 'theses': write thesis, or steps"):
        load_config(path, ["invert.schedule=theses"])


def test_an_encoder_without_a_kind_is_a_published_one_as_before(tmp_path):
    path = write(tmp_path, MINIMAL)
    given, named = (
        load_config(path, [f"invert.start={{kind: encoder, encoder: {{{kind}checkpoint: e4e.pt}}}}"]).invert.start
        for kind in ("", "kind: published, ")
    )
    assert given == named
    with pytest.raises(ConfigError, match=r"invert\.start\.encoder.*'published', 'sam'"):
        load_config(path, ["invert.start={kind: encoder, encoder: {kind: psp}}"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("invert.finish={window: 20, improvement: 0.1}", "invert: .*finish: steps by need were removed.*Remove the"),
        ("invert.budget={least: 0.4, easy: 0.1, hard: 0.2}", "invert: .*budget: steps by need were removed"),
        ("error_maps.finish={window: 20, improvement: 0.1}", r"unknown key 'error_maps\.finish'"),
        ("error_maps.budget={least: 0.4, easy: 0.1, hard: 0.2}", r"unknown key 'error_maps\.budget'"),
    ],
)
def test_steps_by_need_are_refused(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, MINIMAL), [override])


def test_steps_by_need_may_be_given_as_off(tmp_path):
    path = write(tmp_path, MINIMAL)
    assert load_config(path, ["invert.finish=null", "invert.budget=null"]).invert == load_config(path).invert


@pytest.mark.parametrize(
    ("override", "start"),
    [
        ("invert.start_samples=0", Mean()),
        ("invert.start_samples=8", Learnt(samples=8)),
        ("invert.start={kind: learnt, samples: 8}", Learnt(samples=8)),
        ("invert.start={kind: learnt}", Learnt(samples=1024)),
        ("invert.start={kind: mean}", Mean()),
    ],
)
def test_a_start_is_given_by_its_kind_or_by_the_number_of_its_samples(tmp_path, override, start):
    path = write(tmp_path, MINIMAL)
    assert load_config(path, [override]).invert.start == start
    assert load_config(path, [override.replace("invert", "error_maps", 1)]).error_maps.start == start


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("invert.start_samples=-1", r"^[^\n]*: invert\.start\.samples: .*greater than 0, got -1$"),
        ("invert.start_samples=null", r"invert\.start\.samples: .*valid integer, got None"),
        ("invert.start={kind: mode}", r"invert\.start: .*'mean', 'learnt'"),
        ("invert.start={kind: learnt, sample: 8}", r"'invert\.start\.sample'; did you mean 'invert\.start\.samples'"),
        (
            "invert.start={kind: mean, samples: 8}",
            r"start\.samples' belongs to another kind of 'invert\.start'",
        ),
        ("invert.method={kind: guess}", r"invert\.method: .*'optimise', 'gaussian_prior'"),
        (
            "invert.method={kind: hybrid, encoder: {checkpoint: e.pt}, space: W}",
            r"did you mean 'invert\.method\.spaces'",
        ),
        (
            "invert.method={kind: encode, encoder: {checkpoint: s3://b/e.pt}}",
            r"method\.encoder\.checkpoint: .*local files",
        ),
        ("invert.start={kind: bundle}", "either codes .* or store"),
        ("error_maps.start={kind: bundle, store: other}", "cannot start from a store"),
    ],
)
def test_a_start_or_method_that_is_none_is_refused_with_its_key(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, MINIMAL), [override])


def test_two_starts_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="start and start_samples both say where inversions start"):
        load_config(write(tmp_path, MINIMAL), ["invert.start={kind: mean}", "invert.start_samples=8"])


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("treshold: 0.3", "treshold", "refine_maps.threshold"),
        ("refine_maps: {treshold: 0.3}", "refine_maps.treshold", "refine_maps.threshold"),
        ("invert: {schedule: {step: 3}}", "invert.schedule.step", "invert.schedule.steps"),
        (
            "refine_maps: {segmentation: {kind: labels, membr: seg.png}}",
            "refine_maps.segmentation.membr",
            "refine_maps.segmentation.member",
        ),
        ("comput: {workers: 2}", "comput", "compute"),
        ("generator: {checkpoint: g, nois: none}", "generator.nois", "generator.noise"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path, text, key, nearest):
    base = MINIMAL if "generator" not in text else MINIMAL.rpartition("generator")[0]
    with pytest.raises(ConfigError, match=f"unknown key '{key}'") as caught:
        load_config(write(tmp_path, base + text))
    assert f"did you mean '{nearest}'" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("threshold", "'refine_maps.threshold'"),
        (
            "steps",
            "'error_maps.schedule.steps' or 'invert.schedule.steps' or 'invert.method.pivot.steps' or "
            "'invert.method.tuning.steps'",
        ),
        ("invert.steps", "'invert.schedule.steps' or 'invert.method.pivot.steps' or 'invert.method.tuning.steps'"),
        ("workers", "'compute.workers'"),
        ("storage.anonymus", "'storage.input.anonymous' or 'storage.output.anonymous'"),
        ("refine_map.threshold", "'refine_maps'"),
        ("sha256", "'generator.sha256'"),
        ("member", "'label.member' or 'refine_maps.segmentation.member'"),
    ],
)
def test_a_key_in_the_wrong_place_is_told_where_it_belongs(tmp_path, key, meant):
    with pytest.raises(ConfigError, match=rf"did you mean {re.escape(meant)}\?"):
        load_config(write(tmp_path, MINIMAL), [f"{key}=0.3"])


def test_a_key_that_is_like_no_other_is_told_where_all_are_listed(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown key 'zzz'; `invertmill config` prints every key"):
        load_config(write(tmp_path, MINIMAL), ["zzz=1"])


def test_a_missing_key_is_named(tmp_path):
    with pytest.raises(ConfigError, match="'output' is missing"):
        load_config(write(tmp_path, MINIMAL.replace("output: store\n", "")))


def test_a_wrong_value_is_shown_with_its_key(tmp_path):
    with pytest.raises(ConfigError, match=r"refine_maps\.threshold: .*greater than 0.*got -1"):
        load_config(write(tmp_path, MINIMAL), ["refine_maps.threshold=-1"])


@pytest.mark.parametrize("written", ["image.jpg", ".image.jpg", "Image.JPG"])
def test_the_member_that_is_the_picture_is_named_by_what_follows_the_key(tmp_path, written):
    assert load_config(write(tmp_path, MINIMAL), [f"image={written}"]).image == "image.jpg"


@pytest.mark.parametrize("key", ["truth", "refine_maps.segmentation.member", "label.member"])
def test_every_member_is_named_as_shards_are_read_in_lower_case(tmp_path, key):
    config = load_config(write(tmp_path, MINIMAL), ["refine_maps.segmentation={kind: labels}", f"{key}=.Mask.PNG"])
    assert functools.reduce(getattr, key.split("."), config) == "mask.png"


def test_the_picture_and_its_mask_are_two_members(tmp_path):
    with pytest.raises(ConfigError, match=r"truth: .*'mask\.png' is the picture already"):
        load_config(write(tmp_path, MINIMAL), ["image=mask.png", "truth=mask.png"])


@pytest.mark.parametrize("section", ["error_maps", "invert"])
def test_the_images_optimised_together_are_a_number_or_auto(tmp_path, section):
    for value, batch in (("24", 24), ("auto", "auto")):
        config = load_config(write(tmp_path, MINIMAL), [f"{section}.batch={value}"])
        assert getattr(config, section).batch == batch
    for wrong in ("0", "2.5", "all"):
        with pytest.raises(
            ConfigError, match=rf"{section}\.batch: .*must be a whole number above 0, or auto, got '?{wrong}"
        ):
            load_config(write(tmp_path, MINIMAL), [f"{section}.batch={wrong}"])


def test_all_errors_are_told_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, MINIMAL), ["unit_samples=0", "sed=1"])
    assert "unit_samples" in str(caught.value)
    assert "did you mean 'seed'" in str(caught.value)


@pytest.mark.parametrize("override", ["threshold", "=3", "output.deep=1"])
def test_an_override_that_fits_nowhere_is_refused(tmp_path, override):
    with pytest.raises(ConfigError, match="--set"):
        load_config(write(tmp_path, MINIMAL), [override])


@pytest.mark.parametrize("text", ["- a list\n", "a: [1\n"])
def test_what_is_not_a_configuration_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load_config(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")
