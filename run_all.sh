#!/usr/bin/env bash
# The main job and the tests, each from nothing to done. `./run_all.sh --help` says more.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
    cat <<'EOF'
usage: ./run_all.sh [EXPERIMENT] [OPTION...]
       ./run_all.sh --test [PYTEST OPTION...]

  EXPERIMENT  a file of experiments/ by its name; without one: `paper` where there is a CUDA GPU and
              VOC is at hand or can be downloaded, else `demo`
  OPTION      a configuration key and its value, such as --data.root ../shared/voc, --runs=elsewhere
              or --runtime.workers 2; or an option of `lovasz-repro study`
  --dry-run   print what would run and how long it should take
  --verbose   with --dry-run: list the cells
  --test      run the test suite
  --help      print this

An environment is made if none is active (conda where there is one, else a venv in .venv). Whatever
was stopped goes on where it was when the same command is given again.
EOF
}

fail() {
    echo "run_all.sh: $1" >&2
    exit 1
}

# Name the step, run it, stop with its name if it fails.
step() {
    local title=$1
    shift
    echo "== $title"
    "$@" || fail "step failed: $title"
}

# Whether the user has activated an environment; conda's own base does not count.
active() {
    [[ -n ${VIRTUAL_ENV:-} || (-n ${CONDA_PREFIX:-} && ${CONDA_DEFAULT_ENV:-base} != base) ]]
}

activate() {
    if active; then
        return
    fi
    if command -v conda >/dev/null; then
        eval "$(conda shell.bash hook)"
        conda env list | grep -q '^lovasz_repro ' ||
            step "Making the conda environment lovasz_repro" conda env create -q -f environment.yml
        conda activate lovasz_repro
    else
        # shellcheck disable=SC1091
        [[ -x .venv/bin/python ]] || step "Making a virtual environment in .venv" make_venv
        source .venv/bin/activate
    fi
}

make_venv() {
    local python
    for python in python3.13 python3.12 python3.11 python3 python; do
        if command -v "$python" >/dev/null &&
            "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$python" -m venv .venv
            return
        fi
    done
    fail "no Python 3.11 or newer found"
}

# Installed again only when the list of dependencies has changed.
install() {
    local extra=$1 stamp want
    stamp="$(python -c 'import sys; print(sys.prefix)')/.lovasz_repro$extra"
    want=$(cksum pyproject.toml; pwd)
    [[ -f $stamp && $(<"$stamp") == "$want" ]] && return
    step "Installing lovasz_repro$extra (PyTorch with CUDA: some minutes and 6 GB)" \
        python -m pip install --quiet -e ".$extra"
    printf '%s' "$want" >"$stamp"
}

has_gpu() {
    if [[ -n $dry ]]; then # nothing is installed for a dry run
        nvidia-smi -L >/dev/null 2>&1
    else
        python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'
    fi
}

can_fetch() {
    python - <<'EOF'
import sys, urllib.request
from torchvision.datasets.voc import DATASET_YEAR_DICT as archives
try:
    request = urllib.request.Request(archives["2012"]["url"], method="HEAD")
    urllib.request.urlopen(request, timeout=10)
except OSError:
    sys.exit(1)
EOF
}

choose() {
    if ! has_gpu; then
        echo "demo" "no CUDA GPU here"
    elif [[ -d data/voc/VOCdevkit/VOC2012/JPEGImages ]]; then
        echo "paper" "a CUDA GPU, and VOC is in data/voc"
    elif [[ -n $dry ]]; then
        echo "paper" "a CUDA GPU; demo if VOC cannot be downloaded"
    elif can_fetch; then
        echo "paper" "a CUDA GPU, and VOC can be downloaded"
    else
        echo "demo" "a CUDA GPU, but VOC is neither in data/voc nor can it be downloaded"
    fi
}

dry=""
experiment=""
case ${1:-} in
--test)
    shift
    activate
    install "[dev]"
    step "Lint" ruff check .
    step "Types" mypy
    step "Arrows between rooms" lint-imports
    [[ -d ../shared/voc ]] || echo "tests on real data are left out: there is no ../shared/voc"
    # A file's tests share what they make, so they stay in one process. Each needs 1 to 3 GB.
    # They start in the order of tests/conftest.py.
    step "Tests" python -m pytest -n auto --maxprocesses 4 --dist loadfile \
        --no-loadscope-reorder "$@"
    exit
    ;;
--dry-run | --dry_run)
    dry=--dry-run
    shift
    ;;
esac
if [[ -n ${1:-} && $1 != -* ]]; then
    experiment=$1
    shift
    [[ -f experiments/$experiment.yaml ]] ||
        fail "no experiment '$experiment'; there is $(cd experiments && echo *.yaml | sed 's/\.yaml//g')"
fi
arguments=()
for argument in "$@"; do
    case $argument in
    --dry-run | --dry_run) dry=--dry-run ;;
    --help | -h)
        usage
        exit
        ;;
    *) arguments+=("$argument") ;;
    esac
done

if [[ -z $dry ]]; then
    activate
    install "[weights]"
elif ! active && [[ -f .venv/bin/activate ]]; then
    # shellcheck disable=SC1091
    source .venv/bin/activate
fi
if [[ -z $experiment ]]; then
    read -r experiment why < <(choose)
    echo "Experiment: $experiment ($why)"
fi
config=experiments/$experiment.yaml
expected=$(sed -n 's/^expected: //p' "$config")
echo "$experiment: ${expected:-how long it takes is not known}"

study=(lovasz-repro study --config "$config" ${arguments[@]+"${arguments[@]}"})
if [[ -n $dry ]] && ! command -v lovasz-repro >/dev/null; then
    echo "would install lovasz_repro first (PyTorch with CUDA: some minutes and 6 GB)"
    echo "would run: ${study[*]}"
    exit
fi
# A wrong option or value is found before anything is downloaded.
paths=$("${study[@]}" --check) || exit 1
path_of() { sed -n "s/^$1: //p" <<<"$paths"; }
data=$(path_of data)
weights=$(path_of weights)
runs=$(path_of runs)
report=reports/${runs##*/}
has_data() { [[ -d $data/VOCdevkit/VOC2012/JPEGImages || -d $data/JPEGImages ]]; }
# The published weights that `lovasz-repro data weights` can leave there; others are the user's own.
lacks_weights() { [[ $weights == data/weights/* && ! -f $weights ]]; }

if [[ -n $dry ]]; then
    has_data || echo "would make the data in $data first"
    ! lacks_weights || echo "would make $weights first"
    echo "would run: ${study[*]}"
    echo "then: lovasz-repro report --runs $runs --out $report"
    ! has_data || lacks_weights || "${study[@]}" "$dry"
    exit
fi
if [[ $expected == *GPU* && $(path_of device) != cpu ]] && ! has_gpu; then
    fail "$experiment needs a GPU, and torch sees none (is the driver too old?); --runtime.device cpu takes the CPU"
fi
if ! has_data; then
    if [[ $experiment == demo ]]; then
        step "Data: generated shapes" lovasz-repro data shapes --root "$data"
    elif [[ $(path_of classes) == voc ]]; then
        step "Data: VOC 2012 and SBD" lovasz-repro data fetch --root "$data"
    else
        fail "no data in $data: neither VOCdevkit/VOC2012/JPEGImages nor JPEGImages is there"
    fi
fi
if lacks_weights; then
    name=${weights##*/}
    step "Weights: ${name%.pth}" lovasz-repro data weights "${name%.pth}" --root data/weights
fi
step "Study: $experiment" "${study[@]}"
step "Report" lovasz-repro report --runs "$runs" --out "$report"
echo "TensorBoard: tensorboard --logdir $runs/tensorboard"
