# make demo: install, render faces, train on them, verify and identify others, report.  make test: ruff and all tests.
# Each makes a virtual environment of its own, and makes it again only when setup.py changes.

SUITABLE = import sys; sys.exit(not (3, 8) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for python in python3 python3.11 python3.10 python3.9 python3.12 python3.8; do \
	$$python -c '$(SUITABLE)' 2>/dev/null && echo $$python && exit; done; echo python3)
DEMO = .venv-demo/bin/python
MODEL = demo/models/y1-arcface-demo/model,1
FACES = datasets/demo/identification

.PHONY: demo test clean

.venv-demo/ready .venv-test/ready: setup.py
	@$(PYTHON) common/check_python.py
	rm -rf $(@D) && $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check ".[cpu$(if $(findstring test,$@),$(comma)test)]"
	@touch $@

comma = ,

demo: .venv-demo/ready
	rm -rf demo
	$(DEMO) datasets/render.py --pairs 1000
	$(DEMO) recognition/train.py --network y1 --loss arcface --loss-s 16 --loss-m2 0.2 --dataset demo \
		--per-batch-size 32 --max-steps 130 --lr-steps 100 --frequent 10 --models-root demo/models
	$(DEMO) eval/verification.py --model $(MODEL) --dataset demo --mode 1 --output demo/verification
	$(DEMO) eval/gen_megaface.py --model $(MODEL) --output demo/features --batch-size 64 \
		--facescrub-lst $(FACES)/facescrub_lst --facescrub-root $(FACES)/facescrub \
		--megaface-lst $(FACES)/megaface_lst --megaface-root $(FACES)/megaface
	$(DEMO) eval/megaface.py --feature-dir demo/features --output demo/megaface \
		--facescrub-lst $(FACES)/facescrub_lst --megaface-lst $(FACES)/megaface_lst \
		--facescrub-noises "" --megaface-noises ""
	$(DEMO) datasets/render.py --sheet demo/faces.png
	$(DEMO) eval/report.py demo --output demo/report.html
	@echo; echo "made: demo/report.html (all of it on one page), demo/models (model, log, settings, report),"
	@echo "      demo/verification (ROC, scores, wrong decisions, results.json), demo/features (MegaFace features),"
	@echo "      demo/megaface (their scores), demo/faces.png (the rendered faces), datasets/demo (the data)"

test: .venv-test/ready
	.venv-test/bin/ruff check .
	.venv-test/bin/python -m pytest --numprocesses 2 --dist loadfile

clean:
	rm -rf .venv-demo .venv-test build *.egg-info demo datasets/demo
