"""Settings in layers."""
import json

import pytest

from common.errors import DataError, UserError
from recognition import presets
from recognition.train import parse_args


def settings_of(*flags):
    return parse_args(list(flags))[0]


class TestLayers:
    def test_presets_of_the_original(self):
        settings = settings_of()
        expected = dict(network="r100", loss="arcface", dataset="emore", lr=0.1, lr_steps="100000,160000,220000",
                        wd=0.0005, mom=0.9, per_batch_size=128, ckpt=3, verbose=2000, frequent=20, kvstore="device",
                        class_parallel=False,
                        models_root="./models", num_layers=100, emb_size=512, net_output="E", loss_s=64.0,
                        loss_m2=0.5, ckpt_embedding=True)
        assert {key: settings[key] for key in expected} == expected

    def test_network_and_loss_bring_their_own(self):
        settings = settings_of("--network", "y1", "--loss", "cosface")
        assert (settings.emb_size, settings.net_output, settings.loss_m3) == (128, "GDC", 0.35)

    def test_large_densenets_bring_a_smaller_batch(self):
        assert settings_of("--network", "d169").per_batch_size == 64
        assert settings_of("--network", "d169", "--per-batch-size", "16").per_batch_size == 16
        assert settings_of("--network", "d121").per_batch_size == 128

    def test_flags_over_config_over_presets(self, tmp_path):
        path = tmp_path / "run.json"
        path.write_text(json.dumps(dict(network="y1", lr=0.05, emb_size=64, loss_m2=0.3)))
        settings = settings_of("--config", str(path), "--lr", "0.01")
        assert (settings.network, settings.lr, settings.emb_size, settings.loss_m2) == ("y1", 0.01, 64, 0.3)

    def test_every_builder_setting_is_a_flag(self):
        settings = settings_of("--network", "y1", "--net-blocks", "1,1,2,1", "--emb-size", "32", "--loss-s", "30")
        assert (settings.net_blocks, settings.emb_size, settings.loss_s) == ((1, 1, 2, 1), 32, 30.0)
        settings = settings_of("--network", "d121", "--release", "2018", "--densenet-dropout", "0.2", "--memonger", "1")
        assert (settings.release, settings.densenet_dropout, settings.memonger) == (2018, 0.2, True)

    def test_resolved_settings_build_the_same_again(self, tmp_path):
        settings = settings_of("--network", "y1", "--net-blocks", "1,1,2,1")
        presets.save_settings(tmp_path, settings)
        again = settings_of("--config", str(tmp_path / "settings.json"))
        assert json.dumps(again, sort_keys=True) == json.dumps(settings, sort_keys=True)


class TestRefusals:
    @pytest.mark.parametrize("flags, words", [
        (["--network", "r1"], "unknown network 'r1'; known are: .*r100.*y1"),
        (["--loss", "none"], "unknown loss 'none'; known are: adaface, arcface")])
    def test_unknown_names_list_the_known(self, flags, words):
        with pytest.raises(UserError, match=words):
            parse_args(flags)

    @pytest.mark.parametrize("flags", [["--loss-m9", "1"], ["--lr", "fast"], ["--data-rand-mirror", "2"]])
    def test_bad_flag_is_one_line(self, flags, capsys):
        with pytest.raises(SystemExit) as exit_:
            parse_args(flags)
        lines = capsys.readouterr().err.splitlines()
        assert exit_.value.code == 2 and len(lines) == 1 and lines[0].startswith("error: ")

    @pytest.mark.parametrize("text, error", [(None, UserError), ("{", DataError), ("[1]", DataError),
                                             ('{"learning_rate": 1}', UserError)])
    def test_bad_config_file(self, tmp_path, text, error):
        path = tmp_path / "run.json"
        if text is not None:
            path.write_text(text)
        with pytest.raises(error):
            parse_args(["--config", str(path)])

    @pytest.mark.parametrize("flags", [["--frequent", "0"], ["--verbose", "0"], ["--per-batch-size", "0"],
                                       ["--seed", "-1"], ["--max-steps", "-1"], ["--ckpt", "7"],
                                       ["--kvstore", "dist_async"], ["--seed", "4294967296"]])
    def test_impossible_values(self, flags):
        with pytest.raises(UserError, match=flags[0].strip("-").replace("-", "_")):
            parse_args(flags)

    @pytest.mark.parametrize("flags", [["--sample-rate", "0.1"], ["--loss", "triplet"], ["--loss", "atriplet"]])
    @pytest.mark.parametrize("kvstore", ["dist_sync", "horovod"])
    def test_not_with_several_workers(self, flags, kvstore):
        with pytest.raises(UserError, match=f"{' '.join(flags)} with --kvstore {kvstore}: .*; expected"):
            parse_args([*flags, "--kvstore", kvstore])
        parse_args(flags)

    @pytest.mark.parametrize("config", [{"lr": "0.1"}, {"loss_s": "64"}, {"targets": None}, {"net_output": 3}])
    def test_config_value_of_another_kind(self, tmp_path, config):
        (tmp_path / "run.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=f"{min(config)} is .*; expected something like"):
            parse_args(["--config", str(tmp_path / "run.json")])

    @pytest.mark.parametrize("text", ["a", "3,2", "0", "2,2", "-1,4"])
    def test_bad_steps(self, text):
        with pytest.raises(UserError, match="--lr-steps"):
            presets.lr_steps(text)

    def test_no_steps(self):
        assert presets.lr_steps("") == []
