#!/usr/bin/env bash
# The main job and the tests, each from nothing to done. `./run_all.sh --help` says more.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
    cat <<'EOF'
usage: ./run_all.sh [--dry-run] [EXPERIMENT] [KEY...]
       ./run_all.sh --test [PYTEST OPTION...]

  EXPERIMENT  a file of experiments/ by its name; without one: `paper` where there is a CUDA GPU and
              VOC is at hand or can be downloaded, else `demo`
  KEY         configuration overrides, handed on: --data.root ../shared/voc --runs elsewhere
  --dry-run   print what would run and how long it should take
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

has_voc() { [[ -d data/voc/VOCdevkit/VOC2012/JPEGImages ]]; }

can_fetch() {
    [[ -z $dry ]] && python - <<'EOF'
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
    elif has_voc || can_fetch; then
        echo "paper" "a CUDA GPU, and VOC is at hand or can be downloaded"
    else
        echo "demo" "a CUDA GPU, but VOC is neither in data/voc nor can it be downloaded"
    fi
}

dry=""
experiment=""
case ${1:-} in
--help | -h)
    usage
    exit
    ;;
--test)
    shift
    activate
    install "[dev]"
    step "Lint" ruff check .
    step "Types" mypy
    [[ -d ../shared/voc ]] || echo "tests on real data are left out: there is no ../shared/voc"
    step "Tests" python -m pytest "$@"
    exit
    ;;
--dry-run)
    dry=--dry_run
    shift
    ;;
esac
if [[ -n ${1:-} && $1 != --* ]]; then
    experiment=$1
    shift
    [[ -f experiments/$experiment.yaml ]] ||
        fail "no experiment '$experiment'; there is $(cd experiments && echo *.yaml | sed 's/\.yaml//g')"
fi

if [[ -z $dry ]]; then
    activate
    install ""
elif ! active && [[ -f .venv/bin/activate ]]; then
    # shellcheck disable=SC1091
    source .venv/bin/activate
fi
if [[ -z $experiment ]]; then
    read -r experiment why < <(choose)
    echo "Experiment: $experiment ($why)"
fi
config=experiments/$experiment.yaml
echo "$experiment: $(sed -n 's/^expected: //p' "$config")"

data=data/voc runs=runs
[[ $experiment != demo ]] || data=data/shapes
arguments=("$@")
for ((i = 0; i + 1 < $#; i++)); do
    case ${arguments[i]} in
    --data.root) data=${arguments[i + 1]} ;;
    --runs) runs=${arguments[i + 1]} ;;
    esac
done
has_data() { [[ -d $data/VOCdevkit/VOC2012/JPEGImages || -d $data/JPEGImages ]]; }

if [[ -n $dry ]]; then
    has_data || echo "would make the data in $data first"
    echo "would run: lovasz-repro study --config $config $*; lovasz-repro report"
    if has_data && command -v lovasz-repro >/dev/null; then
        lovasz-repro study --config "$config" --dry_run "$@"
    fi
    exit
fi
if ! has_data; then
    if [[ $experiment == demo ]]; then
        step "Data: generated shapes" lovasz-repro data shapes --root "$data"
    else
        step "Data: VOC 2012 and SBD" lovasz-repro data fetch --root "$data"
    fi
fi
step "Study: $experiment" lovasz-repro study --config "$config" "$@"
step "Report" lovasz-repro report --runs "$runs/$experiment" --out "reports/$experiment"
echo "TensorBoard: tensorboard --logdir $runs/$experiment/tensorboard"
