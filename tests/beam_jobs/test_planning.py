"""The plan that Beam makes by ranges of hashes is the plan that one process makes of all scans."""

import dataclasses
import hashlib
import json

import apache_beam as beam
import pytest
from job_tools import config_for

from beam_jobs import parts, planning, publish, runners
from beam_jobs.corpus import AudioFile, Corpus
from beam_jobs.input_digest import input_digest
from beam_jobs.payload import Job
from beam_jobs.plan import make_plan
from beam_jobs.planning import plan_shards
from beam_jobs.scan import Scan
from beam_jobs.sifting import range_of
from beam_jobs.splits import UnitSummary
from beam_jobs.steps import guarded
from beam_jobs.tally import tally_of
from tfpipe.data.manifest import SPLITS, Skipped, lines
from tfpipe.files.remote import sizes

LEFT_OUT = (
    Skipped(path="A/005.wav-folder.wav", code="not_a_file", message="first"),
    Skipped(path="zz", code="missing", message="m"),
)


def scan_of(number, *, labels, groups):
    """Returns a scan; some files are copies, some cannot be used, some cannot even be read, some have a split."""
    label = "ABCDEFGH"[number % labels]
    content = hashlib.sha256(str(number - number % 3 if number % 11 == 5 else number).encode()).hexdigest()
    name = f"{label}/{number:03d}.wav"
    file = AudioFile(name, f"/in/{name}", label, *_group_and_split(number, groups))
    if number % 13 == 6:
        code, content = ("unreadable", "") if number % 2 else ("silent", content)
        skipped = Skipped(path=name, code=code, message=f"/in/{name}: {code}")
        return Scan(file=file, hash=content, skipped=skipped)
    starts = tuple(range(0, 8000 * (number % 70 + 1), 8000))
    return Scan(file=file, hash=content, stamp=(number, 1), seconds=1.5, starts=starts, silent=number % 3)


def _group_and_split(number, groups):
    if groups and number % 4:
        return f"g{number * 7 % groups}", ""
    return "", "test" if number % 17 == 4 else ""


def write_plan(plan, job):
    parts.write_rows(job, f"{plan.name}.plan", [json.dumps(dataclasses.asdict(plan))])


def planned_in_beam(scans, job, left_out):
    """Runs the planning alone; returns the shards as JSON by name."""
    blocks, job = job.split_blocks, dataclasses.replace(job, split_blocks=())
    pipeline = beam.Pipeline(runner=runners.local_runner(runners.parse_options([]), workers=1))
    plans = plan_shards(
        pipeline | beam.Create(list(enumerate(scans))), job, split_blocks=blocks, left_out=tally_of(left_out)
    )
    _ = plans | beam.Map(guarded, function=write_plan, job=job)
    pipeline.run().wait_until_finish()
    names = [name for name in sizes(job.plan_folder) if name.endswith(".plan")]
    return {name.removesuffix(".plan"): parts.read_json(job, name) for name in names}


@pytest.mark.parametrize(
    ("files", "labels", "groups"), [(150, 3, 0), (150, 2, 30), pytest.param(120, 8, 60, marks=pytest.mark.slow)]
)
def test_ranges_give_the_plan_of_one_process(files, labels, groups, tmp_path, monkeypatch):
    monkeypatch.setattr("beam_jobs.payload._TRACKS_IN_RANGE", 10)
    monkeypatch.setattr(planning, "_MOST_ROWS", 7)
    scans = sorted((scan_of(number, labels=labels, groups=groups) for number in range(files)), key=lambda row: row.file)
    kept = {scan.hash: SPLITS[index % 3] for index, scan in enumerate(scans) if index % 10 == 3}
    config = config_for("in", tmp_path, max_skipped=0.9)
    corpus = Corpus(base="/in", files=tuple(scan.file for scan in scans), skipped=LEFT_OUT, splits=kept)
    job = parts.stage(Job(config=config, corpus=corpus))
    assert job.ranges == 16
    assert job.has_groups == bool(groups)
    found = planned_in_beam(scans, job, LEFT_OUT)

    plan = make_plan(scans, config=config, skipped=LEFT_OUT, splits=kept)
    assert len(plan.shards) > 16
    assert found == {shard.name: json.loads(json.dumps(dataclasses.asdict(shard))) for shard in plan.shards}
    for block in job.blocks:
        parts.write_scans(job, block, scans[block.first : block.first + block.lines])
    digest = publish.write_rows(job, sorted(sizes(job.plan_folder)))
    tracks = sorted(plan.tracks, key=lambda row: (SPLITS.index(row.split), row.hash))
    assert parts.files.read(parts.part(job, "tracks.jsonl")) == lines(tracks)
    assert parts.files.read(parts.part(job, "skipped.jsonl")) == lines(plan.skipped)
    assert parts.read_json(job, "plan.json") == {"labels": list(plan.labels)}
    splits = {**kept, **{scan.hash: scan.file.split for scan in scans if scan.file.split}}
    rows = sorted((scan.hash, splits[scan.hash]) for scan in scans if scan.hash and scan.hash in splits)
    assert digest == input_digest(
        [parts.input_row(scan.file, scan.hash).encode() for scan in scans],
        skipped=LEFT_OUT,
        splits=[parts.split_row(*row).encode() for row in rows],
    )


def test_too_few_usable_files_fail_before_any_shard_is_planned(tmp_path):
    scans = [scan_of(6, labels=1, groups=0), scan_of(19, labels=1, groups=0), scan_of(1, labels=1, groups=0)]
    corpus = Corpus(base="/in", files=tuple(scan.file for scan in scans))
    job = parts.stage(Job(config=config_for("in", tmp_path), corpus=corpus))
    with pytest.raises(RuntimeError) as failed:
        planned_in_beam(scans, job, ())
    message = bytes.fromhex(str(failed.value).split("tfpipe-failure:")[1].split(";")[0]).decode()
    assert message.startswith("2 of 3 audio files cannot be used (more than the allowed 50%; raise --max-skipped")
    assert message.endswith("1 silent, 1 unreadable; the first is /in/A/006.wav: silent")
    assert not [name for name in sizes(job.plan_folder) if name.endswith(".plan")]


def test_a_list_of_files_is_read_again_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_WANTED_BLOCKS", 3)
    files = [AudioFile(f"A/{number}\udcff\n.wav", f"/in/{number}", "A", "g", "test") for number in range(10)]
    known = {"/in/4": Scan(file=files[4], hash="ab", stamp=(1, 2), seconds=1.0, starts=(0, 5))}
    job = Job(config=config_for("in", tmp_path), corpus=Corpus(base="/in", files=tuple(files)), known=known)
    staged = parts.stage(job)
    assert (staged.corpus.files, staged.known, staged.files) == ((), {}, 10)
    assert [block.lines for block in staged.blocks] == [3, 3, 3, 1]
    rows = [row for block in staged.blocks for row in parts.read_files(staged, block)]
    assert [(number, file) for number, file, _ in rows] == list(enumerate(files))
    assert [scan.hash for _, _, scan in rows if scan is not None] == ["ab"]


def test_ranges_are_in_the_order_of_the_hashes():
    hashes = sorted(hashlib.sha256(bytes([number])).hexdigest() for number in range(200))
    for ranges in (1, 2, 16, 4096):
        found = [range_of(content, ranges) for content in hashes]
        assert found == sorted(found)
        assert max(found) < ranges
    assert len({range_of(content, 16) for content in hashes}) == 16


def test_labels_that_share_a_group_are_parted_from_the_others():
    summary = UnitSummary()
    summary.add("u1", labels=["A", "B"], split="train", is_fixed=False)
    summary.add("u2", labels=["A"], split="test", is_fixed=True)
    summary.add("u3", labels=["C"], split="train", is_fixed=False)
    inside, outside = summary.parted(summary.shared_labels)
    assert (inside.labels, outside.labels) == ({"A", "B"}, {"C"})
    assert inside.counts == {("A", "train"): 1, ("B", "train"): 1, ("A", "test"): 1}
    assert outside.free == {(("C",), "train"): ["u3"]}
