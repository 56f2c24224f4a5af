# Every line here is one that you could type yourself.
PYTHON ?= python3
.PHONY: study test test-all lint types docs bench clean

# The environment: made once, and again when the requirements change.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --upgrade pip
	.venv/bin/pip install --quiet torch==2.13.0
	.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[all,test]'
	touch .venv/ready

# The comparison study on a small real model: prints the path of the page.
study: .venv/ready
	.venv/bin/veracausa study ioi --model smollm2-135m --out out/ioi

# The whole test suite, but for the slow extras. What fails is run again, with the values in its assertions: to prepare
# these in all files would take each of both processes ten seconds.
test: .venv/ready
	.venv/bin/pytest -n 2 --assert=plain -m "not slow" tests || (.venv/bin/pytest --last-failed --lfnf none; false)

test-all: .venv/ready
	.venv/bin/pytest -n 2 tests

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check src

types: .venv/ready
	.venv/bin/mypy

# The guides and the reference of every public name, as pages in out/site that ask nobody for anything.
docs: .venv/ready
	.venv/bin/mkdocs build --quiet

# The benchmarks behind benchmarks/RESULTS.md (about twenty minutes).
bench: .venv/ready
	.venv/bin/python benchmarks/neurons.py
	.venv/bin/python benchmarks/estimates.py
	.venv/bin/python benchmarks/methods.py
	.venv/bin/python benchmarks/edges.py
	.venv/bin/python benchmarks/circuit_runs.py
	.venv/bin/python benchmarks/exact_edges.py
	.venv/bin/python benchmarks/loading.py
	.venv/bin/python benchmarks/forecasts.py

clean:
	rm -rf .venv out
