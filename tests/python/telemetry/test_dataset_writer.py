"""The files of a dataset, read back with pyarrow and PyAV alone; crashes, continuation and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from molmoact2_edge.errors import InputError
from molmoact2_edge.telemetry.dataset.layout import DatasetFormat, dataset_format
from molmoact2_edge.telemetry.dataset.statistics import column_statistics
from molmoact2_edge.telemetry.dataset.writer import DatasetWriter

av = pytest.importorskip("av")
pq = pytest.importorskip("pyarrow.parquet")

FORMAT = DatasetFormat("so101", 30, ("pan", "lift", "gripper"), {"front": (48, 64), "wrist": (32, 32)})
KEYS = ["observation.images.front", "observation.images.wrist"]


def shade(episode: int, frame: int) -> int:
    """Of grey, different for neighbours in either direction."""
    return (40 * episode + 7 * frame) % 220 + 10


def pictures(grey: int = 0) -> dict[str, Any]:
    return {camera: np.full((*size, 3), grey, np.uint8) for camera, size in FORMAT.cameras.items()}


def add_episode(writer: DatasetWriter, episode: int, frames: int, task: str) -> int | None:
    draft = writer.draft()
    for k in range(frames):
        draft.add_frame(
            np.array([episode, k, 0.1]), np.array([episode, k + 0.5, -1e3]), pictures(shade(episode, k))
        )
    draft.finish()
    return writer.save_episode(draft, task)


def info(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / "meta/info.json").read_text())
    return content


def rows(root: Path, pattern: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in sorted(root.glob(pattern)):
        found += pq.read_table(path).to_pylist()
    return found


def check_dataset(root: Path, lengths: list[int], tasks: list[str]) -> None:
    """All that a reader relies on, for a dataset of :func:`add_episode`."""
    facts = info(root)
    assert facts["codebase_version"] == "v3.0"
    assert (facts["total_episodes"], facts["total_frames"]) == (len(lengths), sum(lengths))
    assert facts["splits"] == {"train": f"0:{len(lengths)}"}
    assert facts["features"]["action"]["names"] == ["pan.pos", "lift.pos", "gripper.pos"]
    assert facts["features"][KEYS[0]]["info"]["video.codec"] == "h264"
    known = pq.read_table(root / "meta/tasks.parquet").to_pydict()
    assert known["__index_level_0__"][: facts["total_tasks"]] == sorted(set(tasks), key=tasks.index)

    data = rows(root, "data/*/*.parquet")
    episodes = rows(root, "meta/episodes/*/*.parquet")
    first = 0
    for number, (length, task) in enumerate(zip(lengths, tasks, strict=True)):
        episode = episodes[number]
        assert (episode["episode_index"], episode["length"], episode["tasks"]) == (number, length, [task])
        assert (episode["dataset_from_index"], episode["dataset_to_index"]) == (first, first + length)
        assert episode["stats/action/count"] == [length]
        for k, row in enumerate(data[first : first + length]):
            assert (row["index"], row["episode_index"], row["frame_index"]) == (first + k, number, k)
            assert row["timestamp"] == np.float32(k / 30)
            assert known["__index_level_0__"][row["task_index"]] == task
            assert row["observation.state"] == [number, k, np.float32(0.1)]
            assert row["action"] == [number, k + 0.5, -1e3]
        for key in KEYS:
            check_video(root, key, episode, length)
        first += length


def check_video(root: Path, key: str, episode: dict[str, Any], length: int) -> None:
    path = root / info(root)["video_path"].format(
        video_key=key,
        chunk_index=episode[f"videos/{key}/chunk_index"],
        file_index=episode[f"videos/{key}/file_index"],
    )
    begin, end = episode[f"videos/{key}/from_timestamp"], episode[f"videos/{key}/to_timestamp"]
    assert round((end - begin) * 30) == length
    with av.open(str(path)) as container:
        frames = {
            round(frame.time * 30, 6): frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)
        }
    for k in range(length):
        image = frames[round(begin * 30) + k]
        assert abs(float(image.mean()) - shade(episode["episode_index"], k)) < 4.0


def test_episodes_can_be_read_back(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path / "set", FORMAT)
    lengths, tasks = [12, 1, 20], ["pick", "place", "pick"]
    for number, (length, task) in enumerate(zip(lengths, tasks, strict=True)):
        assert add_episode(writer, number, length, task) == number
        check_dataset(
            tmp_path / "set", lengths[: number + 1], tasks[: number + 1]
        )  # it opens after every episode
    writer.close()
    check_dataset(tmp_path / "set", lengths, tasks)
    files = sorted(
        str(path.relative_to(tmp_path / "set")) for path in (tmp_path / "set").rglob("*") if path.is_file()
    )
    assert files == [
        "data/chunk-000/file-000.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        *(f"videos/{key}/chunk-000/file-000.mp4" for key in KEYS),
    ]
    stats = json.loads((tmp_path / "set/meta/stats.json").read_text())
    values = np.array([row["action"] for row in rows(tmp_path / "set", "data/*/*.parquet")], np.float32)
    for name in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(stats["action"][name], column_statistics(values)[name], rtol=1e-6)
    assert np.shape(stats[KEYS[0]]["mean"]) == (3, 1, 1)


def test_a_second_run_adds_to_new_files(tmp_path: Path) -> None:
    for session in range(3):
        writer = DatasetWriter(tmp_path, FORMAT)
        assert writer.episodes == 2 * session
        for number in (2 * session, 2 * session + 1):
            add_episode(writer, number, 5 + number, f"task {number % 3}")
        writer.close()
    check_dataset(
        tmp_path, [5 + number for number in range(6)], [f"task {number % 3}" for number in range(6)]
    )
    assert len(list(tmp_path.glob("data/*/*.parquet"))) == 3


def test_files_that_are_full_are_followed_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("molmoact2_edge.telemetry.dataset.layout.DATA_FILE_MB", 0)
    monkeypatch.setattr("molmoact2_edge.telemetry.dataset.layout.VIDEO_FILE_MB", 0)
    monkeypatch.setattr("molmoact2_edge.telemetry.dataset.layout.FILES_IN_CHUNK", 2)
    writer = DatasetWriter(tmp_path, FORMAT)
    for number in range(5):
        add_episode(writer, number, 4, "pick")
    writer.close()
    check_dataset(tmp_path, [4] * 5, ["pick"] * 5)
    assert sorted(path.parent.name + "/" + path.name for path in tmp_path.glob("data/*/*.parquet")) == [
        "chunk-000/file-000.parquet",
        "chunk-000/file-001.parquet",
        "chunk-001/file-000.parquet",
        "chunk-001/file-001.parquet",
        "chunk-002/file-000.parquet",
    ]


def test_a_video_is_never_longer_than_single_precision_can_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("molmoact2_edge.telemetry.dataset.writer._VIDEO_SECONDS", 0.5)
    writer = DatasetWriter(tmp_path, FORMAT)
    for number in range(3):
        add_episode(writer, number, 10, "pick")
    writer.close()
    check_dataset(tmp_path, [10] * 3, ["pick"] * 3)
    assert len(list(tmp_path.glob(f"videos/{KEYS[0]}/*/*.mp4"))) == 3


@pytest.mark.parametrize("replaced", range(1, 8))
def test_a_crash_at_any_file_leaves_the_episodes_before_and_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: int
) -> None:
    """``replaced`` is how many files of the third episode took their places before the power went."""
    root = tmp_path / "set"
    writer = DatasetWriter(root, FORMAT)
    add_episode(writer, 0, 6, "pick")
    add_episode(writer, 1, 4, "place")

    class PowerCutError(BaseException):
        pass

    import os

    real, count = os.replace, 0

    def failing(source: object, destination: object) -> None:
        nonlocal count
        if count == replaced:
            raise PowerCutError
        count += 1
        real(source, destination)  # type: ignore[arg-type]

    with monkeypatch.context() as cut:
        cut.setattr("os.replace", failing)
        if replaced < 7:
            with pytest.raises(PowerCutError):
                add_episode(writer, 2, 8, "new")
        else:  # two videos, data, tasks, episodes, statistics, info: everything was in place
            add_episode(writer, 2, 8, "new")
    left = tmp_path / "left"
    shutil.copytree(root, left)  # what is on the disk, whatever the dead process still holds
    complete = ([6, 4, 8], ["pick", "place", "new"]) if replaced == 7 else ([6, 4], ["pick", "place"])
    check_dataset(left, *complete)

    again = DatasetWriter(left, FORMAT)
    number = len(complete[0])
    assert add_episode(again, number, 5, "after") == number
    again.close()
    check_dataset(left, [*complete[0], 5], [*complete[1], "after"])
    assert len(rows(left, "data/*/*.parquet")) == sum(complete[0]) + 5
    assert not list(left.rglob(".recording"))
    writer.close()


def test_a_first_episode_that_was_cut_short_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "data/chunk-000").mkdir(parents=True)
    (tmp_path / "data/chunk-000/file-000.parquet").write_bytes(b"half")
    (tmp_path / ".recording").mkdir()
    writer = DatasetWriter(tmp_path, FORMAT)
    add_episode(writer, 0, 3, "pick")
    writer.close()
    check_dataset(tmp_path, [3], ["pick"])


def test_an_episode_without_a_frame_is_none(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path, FORMAT)
    assert add_episode(writer, 0, 0, "nothing") is None
    add_episode(writer, 0, 2, "pick")
    assert add_episode(writer, 1, 0, "nothing") is None
    writer.close()
    writer.close()
    check_dataset(tmp_path, [2], ["pick"])


def test_one_episode_is_filled_while_another_is_saved(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path, FORMAT)
    discarded = writer.draft()
    discarded.add_frame(np.zeros(3), np.zeros(3), pictures())
    second = writer.draft()
    second.add_frame(np.array([1, 0, 0.1]), np.array([1, 0.5, -1e3]), pictures(shade(1, 0)))
    add_episode(writer, 0, 3, "pick")
    discarded.discard()
    second.add_frame(np.array([1, 1, 0.1]), np.array([1, 1.5, -1e3]), pictures(shade(1, 1)))
    second.finish()
    writer.save_episode(second, "place")
    writer.close()
    check_dataset(tmp_path, [3, 2], ["pick", "place"])


def test_a_frame_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path, FORMAT)
    draft = writer.draft()
    images = pictures()
    with pytest.raises(InputError, match=r"shape \(3,\)"):
        draft.add_frame(np.zeros(2), np.zeros(3), images)
    with pytest.raises(InputError, match="front, wrist"):
        draft.add_frame(np.zeros(3), np.zeros(3), {"front": images["front"]})
    with pytest.raises(InputError, match=r"\(48, 64, 3\)"):
        draft.add_frame(np.zeros(3), np.zeros(3), {**images, "front": images["wrist"]})
    draft.discard()
    writer.close()


@pytest.mark.parametrize(
    ("form", "named"),
    [
        (DatasetFormat("so101", 15, FORMAT.joints, FORMAT.cameras), "fps 30, this run would write 15"),
        (DatasetFormat("so100", 30, FORMAT.joints, FORMAT.cameras), "robot_type 'so101'"),
        (DatasetFormat("so101", 30, ("lift", "pan", "gripper"), FORMAT.cameras), "'action'"),
        (DatasetFormat("so101", 30, FORMAT.joints, {"front": (48, 64)}), "'observation.images.wrist'"),
        (DatasetFormat("so101", 30, FORMAT.joints, {**FORMAT.cameras, "wrist": (32, 34)}), "wrist"),
    ],
)
def test_a_dataset_of_another_format_is_refused_and_left_alone(
    tmp_path: Path, form: DatasetFormat, named: str
) -> None:
    writer = DatasetWriter(tmp_path, FORMAT)
    add_episode(writer, 0, 3, "pick")
    writer.close()
    with pytest.raises(InputError, match=named) as refused:
        DatasetWriter(tmp_path, form)
    assert "another directory" in str(refused.value)
    check_dataset(tmp_path, [3], ["pick"])


def test_a_dataset_that_lost_a_file_is_refused(tmp_path: Path) -> None:
    for number in range(2):
        writer = DatasetWriter(tmp_path, FORMAT)
        add_episode(writer, number, 3, "pick")
        writer.close()
    (tmp_path / "data/chunk-000/file-001.parquet").unlink()
    with pytest.raises(InputError, match="incomplete"):
        DatasetWriter(tmp_path, FORMAT)


@pytest.mark.parametrize("place", ["thesis.tex", "data/thesis.tex"])
def test_a_directory_with_other_things_is_refused(tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_text("important")
    with pytest.raises(InputError, match=r"no dataset but (thesis\.tex|data);"):
        DatasetWriter(tmp_path, FORMAT)
    assert path.read_text() == "important"


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot record into"):
        DatasetWriter(tmp_path / "file" / "set", FORMAT)


def test_two_runs_do_not_record_into_one_dataset(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path, FORMAT)
    with pytest.raises(InputError, match="another run records"):
        DatasetWriter(tmp_path, FORMAT)
    writer.close()
    DatasetWriter(tmp_path, FORMAT).close()


def test_the_format_follows_the_robot() -> None:
    from molmoact2_edge.config import load_robot

    form = dataset_format(load_robot("so101"), None)
    assert (form.robot_type, form.fps) == ("so101", 30)
    assert form.cameras == {"front": (480, 640), "wrist": (480, 640)}
    assert form.features()["observation.state"]["names"][0] == "shoulder_pan.pos"
    with pytest.raises(InputError, match="51 frames per second needs a loop"):
        dataset_format(load_robot("so101"), 51)
    with pytest.raises(InputError, match="at least 1"):
        dataset_format(load_robot("so101"), 0)
    with pytest.raises(InputError, match="even width and height"):
        DatasetFormat("so101", 30, ("pan",), {"front": (47, 64)})
