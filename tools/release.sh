#!/bin/sh
# Builds what is published, in dist/: sdist, wheel, and an SBOM of what the wheel needs (CycloneDX). Checks the workflows first.
# Usage: release.sh BIN    the folder with the programs of requirements/release.txt
set -eu

bin=$1
"$bin/check-jsonschema" --builtin-schema vendor.github-workflows .github/workflows/*.yml
"$bin/check-jsonschema" --builtin-schema vendor.dependabot .github/dependabot.yml
"$bin/zizmor" --quiet --offline --persona pedantic .github

rm -rf dist
"$bin/python" -m build --no-isolation --outdir dist .
wheel=$(basename dist/*.whl)
"$bin/cyclonedx-py" requirements requirements/run.txt --pyproject pyproject.toml --mc-type application \
    --output-reproducible --output-file "dist/${wheel%%-py3*}.cdx.json"
ls -l dist
