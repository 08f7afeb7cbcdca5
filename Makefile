# make demo        set up everything and train MNIST in 16-bit fixed point
# make test        set up everything and run the tests
# make help        the rest
EPOCHS ?= 3
RESULTS ?= results
# A file of tests runs in one process, as many files at a time as there are cores.
PYTEST_ARGS ?= -n $(shell nproc) --dist loadfile
export TF_CPP_MIN_LOG_LEVEL ?= 2

VENV := .venv/bin
SOURCES := $(shell find cc build_deps third_party -type f -not -name '*.pyc') \
	BUILD WORKSPACE .bazelrc
PYTHON_SOURCES := tf_lowprec tests benchmarks examples hardware tools docs/notebooks setup.py
CC_SOURCES = $(shell find cc tests/cc benchmarks examples hardware/sim -name '*.cc' -o -name '*.h')

.PHONY: demo demo-multiworker test test-addons test-legacy-keras build lint format sanitize fuzz cc-test \
	gpu-test docs notebooks types serving hardware hardware-test hardware-test-small clean help

demo: tf_lowprec/_ops.so ## train MNIST in fixed point: EPOCHS=3 RESULTS=results
	@$(VENV)/python examples/demo.py --epochs $(EPOCHS) --results $(RESULTS)

demo-multiworker: tf_lowprec/_ops.so ## train on two workers that send compressed gradients
	@$(VENV)/python examples/multiworker/demo.py

test: tf_lowprec/_ops.so cc-test ## run the C++ and Python tests
	$(VENV)/python -m pytest $(PYTEST_ARGS)

test-addons: .venv-addons/installed ## the same with TensorFlow 2.15 and tensorflow-addons
	@# pytest, not python -m pytest: the installed package is meant, not the source tree.
	$(CURDIR)/.venv-addons/bin/pytest -o pythonpath=tests $(PYTEST_ARGS)

test-legacy-keras: tf_lowprec/_ops.so ## what depends on Keras, under TF_USE_LEGACY_KERAS=1
	TF_USE_LEGACY_KERAS=1 $(VENV)/python -m pytest tests/layers tests/optimizers tests/models \
		tests/distribute \
		tests/test_precision.py tests/test_policy_map.py tests/test_formats.py \
		tests/test_export.py tests/test_weights.py tests/test_demo.py tests/analysis tests/test_convert.py \
		tests/test_convert_parts.py tests/test_cli.py $(PYTEST_ARGS)

build: tf_lowprec/_ops.so ## set up and build the op library into tf_lowprec/

# _ops.so is newer than all it is made of, or the set-up runs; it skips what is done.
tf_lowprec/_ops.so: $(SOURCES) requirements/default.txt tools/setup.sh tools/build.sh
	@tools/setup.sh
	@touch $@

.venv-addons/installed: $(SOURCES) $(shell find tf_lowprec -name '*.py' -not -name _build_info.py) \
		setup.py pyproject.toml requirements/addons.txt tools/setup.sh tools/build.sh
	@tools/setup.sh addons
	@touch $@

cc-test: tf_lowprec/_ops.so ## run the C++ tests
	@tools/cc_test.sh

gpu-test: tf_lowprec/_ops.so ## run the CUDA kernels' tests and benchmark on a GPU
	@tools/gpu_test.sh

sanitize: tf_lowprec/_ops.so ## run the C++ tests under ASan and UBSan, the threaded ones under TSan
	@tools/cc_test.sh --config=asan
	@tools/cc_test.sh --config=tsan //tests/cc:adacomp_test //tests/cc:conv2d_test \
		//tests/cc:matmul_test \
		//tests/cc:quantize_test //tests/cc:share_work_test //tests/cc:wide_matmul_test

fuzz: ## fuzz AdaComp's decoder: RUNS=200000
	@tools/fuzz.sh $(or $(RUNS),200000)

lint: tf_lowprec/_ops.so ## ruff, clang-format
	$(VENV)/ruff check $(PYTHON_SOURCES)
	$(VENV)/ruff format --check $(PYTHON_SOURCES)
	@$(VENV)/clang-format --dry-run -Werror $(CC_SOURCES)

format: tf_lowprec/_ops.so ## rewrite the sources as lint wants them
	$(VENV)/ruff check --fix $(PYTHON_SOURCES)
	$(VENV)/ruff format $(PYTHON_SOURCES)
	@$(VENV)/clang-format -i $(CC_SOURCES)

hardware-test: hardware-test-small ## the RTL under Verilator, bit for bit against the ops
	PYTHONPATH=. $(VENV)/python hardware/mnist_step.py

hardware-test-small: tf_lowprec/_ops.so ## the same, small arrays only: a minute or two
	@tools/hardware.sh
	$(VENV)/python -m pytest hardware/tests $(PYTEST_ARGS)

hardware: hardware-test-small ## hardware/*.json, *.png: utilization, resources, area, energy (an hour)
	@tools/hardware.sh synthesis
	for script in utilization resources area energy costs mnist_step; do \
		PYTHONPATH=. $(VENV)/python hardware/$$script.py || exit 1; done

.venv-docs/installed: requirements/docs.txt
	python3 -m venv .venv-docs
	.venv-docs/bin/pip install -q -r $<
	@touch $@

docs: .venv-docs/installed ## build the documentation's site into build/site
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

.venv-notebooks/installed: requirements/notebooks.txt tf_lowprec/_ops.so
	$(VENV)/python -m venv .venv-notebooks
	.venv-notebooks/bin/pip install -q -r $<
	@# It sees the packages of .venv, TensorFlow among them.
	site=$$(.venv-notebooks/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	$(VENV)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $$site/tensorflow.pth
	@touch $@

notebooks: .venv-notebooks/installed ## run docs/notebooks and save what they show
	PYTHONPATH=$(CURDIR) .venv-notebooks/bin/python tools/notebooks.py docs/notebooks/*.ipynb

types: .venv-docs/installed ## check the package's type hints
	.venv-docs/bin/mypy

serving: tf_lowprec/_ops.so ## build examples/serving/predict
	@$(MAKE) -s -C examples/serving PYTHON=$(CURDIR)/$(VENV)/python

clean: ## remove what was built (not .venv, not results)
	rm -rf .venv-addons/installed build dist *.egg-info tf_lowprec/_ops.so tf_lowprec/_build_info.py
	-"$$(tools/bazel.sh)" clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24
