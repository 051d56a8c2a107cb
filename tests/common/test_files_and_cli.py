"""Files that are whole or not there, commands that answer in one line, and the log of a run."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common import cli, files
from common.errors import DataError, UserError, unknown_name
from common.log import RunLog, check_unused

ROOT = Path(__file__).resolve().parents[2]


class TestReplacing:
    def test_new_file_in_new_folders(self, tmp_path):
        path = tmp_path / "a" / "b" / "c.txt"
        with files.replacing(path) as temporary:
            assert temporary.parent == path.parent and not path.exists()
            temporary.write_text("new")
        assert path.read_text() == "new" and os.listdir(path.parent) == ["c.txt"]

    def test_old_content_until_the_end(self, tmp_path):
        path = tmp_path / "c.txt"
        path.write_text("old")
        with files.replacing(str(path)) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old"
        assert path.read_text() == "new"

    @pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit, DataError])
    def test_failure_in_the_block(self, tmp_path, failure):
        path = tmp_path / "c.txt"
        path.write_text("old")
        with pytest.raises(failure, match="^mine$"), files.replacing(path) as temporary:
            temporary.write_text("half")
            raise failure("mine")
        assert path.read_text() == "old" and os.listdir(tmp_path) == ["c.txt"]

    @pytest.mark.parametrize("call", ["replace", "fsync"])
    def test_failure_of_the_system(self, tmp_path, monkeypatch, call):
        path = tmp_path / "c.txt"
        path.write_text("old")

        def refuse(*arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, call, refuse)
        with pytest.raises(UserError, match=f"^{re.escape(str(path))}: cannot be written: No space left on device$"):
            files.write_text(path, "new")
        assert path.read_text() == "old" and os.listdir(tmp_path) == ["c.txt"]

    def test_flushed_before_it_is_moved(self, tmp_path, monkeypatch):
        calls = []
        for name in ("fsync", "replace"):
            real = getattr(os, name)
            monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args)))
        files.write_bytes(tmp_path / "c", b"new")
        assert calls == ["fsync", "replace"]

    def test_temporary_file_taken_away(self, tmp_path):
        """By the block itself: an error of one line, and no other on top of it."""
        with pytest.raises(UserError, match="cannot be written: No such file"), files.replacing(tmp_path / "c") as path:
            path.unlink()
        assert os.listdir(tmp_path) == []

    def test_places_that_cannot_be(self, tmp_path):
        (tmp_path / "file").write_text("")
        (tmp_path / "folder").mkdir()
        for path, message in [(tmp_path / "file" / "c", "File exists|Not a directory"),
                              (tmp_path / "folder", "it is a folder"),
                              (tmp_path / ("n" * 300), "File name too long")]:
            with pytest.raises(UserError, match=f"^{re.escape(str(path))}: cannot be written: ({message})$"):
                files.write_text(path, "new")
        assert sorted(os.listdir(tmp_path)) == ["file", "folder"]

    def test_devices_are_not_replaced(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(UserError, match="pipe: cannot be written: it is a device$"):
            files.write_text(tmp_path / "pipe", "new")
        assert os.listdir(tmp_path) == ["pipe"] and not (tmp_path / "pipe").is_file()

    @pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
    def test_permissions(self, tmp_path, umask, mode):
        """Those that a plain open() would give, not the 600 of temporary files."""
        path = tmp_path / "c"
        subprocess.run([sys.executable, "-c", f"import os, sys; os.umask({umask}); from common import files; "
                        "files.write_text(sys.argv[1], 'new')", str(path)], check=True,
                       env=dict(os.environ, PYTHONPATH=str(ROOT)))
        assert path.stat().st_mode & 0o777 == mode

    def test_checked_before_long_work(self, tmp_path):
        (tmp_path / "old").write_text("old")
        for name in ("old", "new", "folder/new"):
            files.check_writable(tmp_path / name)
        assert (tmp_path / "old").read_text() == "old" and sorted(os.listdir(tmp_path)) == ["folder", "old"]
        for path in (tmp_path / "folder", tmp_path / "old" / "new"):
            with pytest.raises(UserError, match=f"^{re.escape(str(path))}: cannot be written: "):
                files.check_writable(path)

    def test_tables_of_names_of_any_bytes(self, tmp_path):
        files.write_csv(tmp_path / "t.csv", [dict(name=os.fsdecode(b"\xff,"), n=1), dict(name="ü", n=2)])
        assert (tmp_path / "t.csv").read_bytes() == b'name,n\n"\xff,",1\n' + "ü,2\n".encode()

    def test_text_is_utf8(self, tmp_path):
        files.write_text(tmp_path / "t", "Ünïcode\n人")
        assert (tmp_path / "t").read_bytes() == "Ünïcode\n人".encode()


def _run(main, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


class TestRun:
    @pytest.mark.parametrize("code", [None, 0, 1, 7])
    def test_code_of_the_command(self, capsys, code):
        assert _run(lambda: code, capsys) == (code, "", "")

    @pytest.mark.parametrize("error", [UserError, DataError])
    def test_errors_of_the_user(self, capsys, error):
        def main():
            print("so far")
            raise error("lfw.bin: truncated")

        assert _run(main, capsys) == (2, "so far\n", "error: lfw.bin: truncated\n")

    def test_one_line_whatever_is_in_a_name(self, capsys):
        def main():
            raise UserError("a\nb: not found\r\n")

        assert _run(main, capsys) == (2, "", "error: a b: not found\n")

    def test_control_c(self, capsys):
        def main():
            raise KeyboardInterrupt

        code, out, err = _run(main, capsys)
        assert (code, out) == (130, "") and err.count("\n") == 1

    def test_errors_of_ours_are_shown_whole(self):
        with pytest.raises(ZeroDivisionError):
            cli.run(lambda: 1 / 0)

    def test_a_reader_that_leaves(self):
        """As in `python symbols/summary.py | head -1`."""
        process = subprocess.Popen(
            [sys.executable, "-c", "from common.cli import run; run(lambda: print('line\\n' * 1000000))"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=str(ROOT)))
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141
        process.stderr.close()


class TestArgumentParser:
    def _parser(self):
        parser = cli.ArgumentParser(prog="verify.py", description="Verify.")
        parser.add_argument("--model", required=True, help="PREFIX,EPOCH")
        parser.add_argument("--batch-size", type=int, default=64, help="images at once")
        parser.add_argument("--seed", type=int, default=0, help="seed of the folds")
        parser.add_argument("--output", default="", help="folder")
        parser.add_argument("--flip", action="store_true", help="mirror")
        parser.add_argument("--loss", choices=["arcface", "softmax"], help="100 %% of them")
        return parser

    @pytest.mark.parametrize("flags, message", [
        ([], "the following arguments are required: --model"),
        (["--model", "m,1", "--batch-size", "x"], "argument --batch-size: invalid int value: 'x'"),
        (["--model", "m,1", "--bogus"], "unrecognized arguments: --bogus"),
        (["--model", "m,1", "--batch", "3"], "unrecognized arguments: --batch 3"),
        (["--model"], "argument --model: expected one argument"),
        (["--model", "m,1", "--loss", "triplet"], "argument --loss: invalid choice: 'triplet'"),
        (["--model", "m,1", "two\nlines"], "unrecognized arguments: two lines"),
    ])
    def test_bad_flags(self, capsys, flags, message):
        with pytest.raises(SystemExit) as ended:
            self._parser().parse_args(flags)
        captured = capsys.readouterr()
        assert ended.value.code == 2 and captured.out == ""
        assert captured.err.startswith(f"error: {message}") and captured.err.endswith(" (see verify.py --help)\n")
        assert captured.err.count("\n") == 1

    def test_help_tells_defaults(self, capsys):
        with pytest.raises(SystemExit) as ended:
            self._parser().parse_args(["--help"])
        told = " ".join(capsys.readouterr().out.split())
        assert ended.value.code == 0
        for text in ("at once (default: 64)", "of the folds (default: 0)", "PREFIX,EPOCH --", "100 % of them"):
            assert text in told
        for text in ("folder (default", "mirror (default", "them (default"):
            assert text not in told

    def test_a_command(self, tmp_path):
        """From another folder, as a user calls it."""
        command = tmp_path / "command.py"
        command.write_text(
            f"import sys\nsys.path[0] = {str(ROOT)!r}\n"
            "from common.cli import ArgumentParser, run\nfrom common.errors import UserError\n"
            "def main():\n    parser = ArgumentParser()\n    parser.add_argument('--n', type=int)\n"
            "    raise UserError(f'{parser.parse_args().n} is too many')\n"
            "run(main)\n")
        for flags, line in ((["--n", "3"], "error: 3 is too many\n"),
                            (["--m"], "error: unrecognized arguments: --m (see command.py --help)\n")):
            done = subprocess.run([sys.executable, str(command), *flags], cwd=str(tmp_path), stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE)
            assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", line)


def test_unknown_names():
    error = unknown_name("network", "r17", {"y1": 1, "r18": 2})
    assert isinstance(error, UserError) and not isinstance(error, DataError)
    assert str(error) == "unknown network 'r17'; known are: r18, y1"


class TestRunLog:
    def test_two_runs_in_one_folder(self, tmp_path, capsys):
        folder = tmp_path / "models" / "m"
        for number in (1, 2):
            log = RunLog(folder)
            log.line(f"run {number}: Ünïcode")
            log.record("progress", step=number, loss=0.5)
            lines = (folder / "train.log").read_text(encoding="utf-8").splitlines()  # before it is closed
            assert len(lines) == number and lines[-1].endswith(f" run {number}: Ünïcode")
            log.close()
        assert capsys.readouterr().out == "run 1: Ünïcode\nrun 2: Ünïcode\n"
        records = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
        assert [(record["event"], record["step"], record["loss"]) for record in records] == [
            ("progress", 1, 0.5), ("progress", 2, 0.5)]
        assert records[0]["time"] <= records[1]["time"]

    def test_without_a_folder(self, capsys):
        log = RunLog()
        log.line("hello")
        log.record("progress", step=1)
        log.close()
        assert capsys.readouterr().out == "hello\n"

    def test_closed_logs_go_on_on_the_terminal(self, tmp_path, capsys):
        log = RunLog(tmp_path)
        log.close()
        log.line("late")
        log.record("late")
        log.close()
        assert capsys.readouterr().out == "late\n" and (tmp_path / "train.log").read_text() == ""

    def test_places_that_cannot_be(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="cannot be written: (Not a directory|File exists)$") as refused:
            RunLog(tmp_path / "file" / "models")
        assert str(tmp_path / "file") in str(refused.value)
        (tmp_path / "folder" / "train.jsonl").mkdir(parents=True)
        with pytest.raises(UserError, match="train.jsonl: cannot be written: Is a directory$"):
            RunLog(tmp_path / "folder")

    def test_a_run_that_goes_on(self, tmp_path):
        """Records of later steps are dropped, as is one that was cut short; what is no record stays to be found."""
        lines = ['{"event": "start", "step": 0}', '{"event": "progress", "step": 4}', "no record",
                 '{"event": "progress", "step": 6}', '{"event": "other"}', '{"event": "progress", "st']
        (tmp_path / "train.jsonl").write_text("\n".join(lines))
        (tmp_path / "train.log").write_text("said\n")
        RunLog(tmp_path, resumed_at=5).close()
        assert (tmp_path / "train.jsonl").read_text().splitlines() == [*lines[:3], lines[4]]
        assert (tmp_path / "train.log").read_text() == "said\n"

    def test_what_was_done_after_the_last_state_is_recorded_once(self, tmp_path):
        def write(resumed_at):
            log = RunLog(tmp_path, resumed_at)
            log.record("verification", step=5, target="lfw", accuracy=0.5)
            for epoch in (1, 2):
                log.record("checkpoint", step=4 + epoch, path=f"model-epoch-{epoch}")
            log.record("warning", step=5, target="stopped")
            log.close()
            return [json.loads(line)["event"] for line in (tmp_path / "train.jsonl").read_text().splitlines()]

        assert write(None) == ["verification", "checkpoint", "checkpoint", "warning"]
        assert write(5) == ["verification", "checkpoint", "warning", "checkpoint", "warning"]
        assert len(write(None)) == 9

    def test_a_new_run_drops_only_what_was_cut_short(self, tmp_path):
        (tmp_path / "train.jsonl").write_text('{"event": "progress", "step": 9}\n{"event"')
        log = RunLog(tmp_path)
        log.record("start", step=0)
        log.close()
        records = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
        assert [record["step"] for record in records] == [9, 0]

    def test_one_run_at_a_time(self, tmp_path):
        log = RunLog(tmp_path)
        for call in (RunLog, check_unused):
            with pytest.raises(UserError, match=f"^{re.escape(str(tmp_path))}: another run writes into this folder"):
                call(tmp_path)
        log.close()
        check_unused(tmp_path)
        check_unused(tmp_path / "nowhere")
        RunLog(tmp_path).close()

    def test_a_folder_that_is_removed(self, tmp_path):
        log = RunLog(tmp_path / "model")
        log.line("before")
        shutil.rmtree(tmp_path / "model")
        log.line("after")
        log.record("progress", step=1)
        log.close()
        assert (tmp_path / "model" / "train.log").read_text().endswith("after\n")
        assert '"step": 1' in (tmp_path / "model" / "train.jsonl").read_text()

    def test_a_folder_that_cannot_be_made_again_at_once(self, tmp_path, capsys):
        log = RunLog(tmp_path / "model")
        shutil.rmtree(tmp_path / "model")
        (tmp_path / "model").write_text("in its place")
        for number in range(3):
            log.line(f"line {number}")
        (tmp_path / "model").unlink()
        log.line("after")
        log.close()
        assert capsys.readouterr().out.count("warning: ") == 1
        assert (tmp_path / "model" / "train.log").read_text().endswith("after\n")

    def test_a_full_disk(self, tmp_path):
        """One warning until it is over; the run goes on, and what is said afterwards is written again."""
        done = subprocess.run([sys.executable, "-c", _FULL_LOG, str(tmp_path)], capture_output=True, text=True,
                              env=dict(os.environ, PYTHONPATH=str(ROOT)))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("warning: ") == 1 and "train.log: cannot be written: File too large; the run goes on" \
            in done.stdout
        assert (tmp_path / "train.log").read_text().endswith("room again\n")


_FULL_LOG = """
import resource, sys
from common.log import RunLog, check_unused
log = RunLog(sys.argv[1])
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, most))
for number in range(9):
    log.line(f"line {number} " + "." * 40)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
log.line("room again")
log.close()
"""
