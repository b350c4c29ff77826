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

# The keys of the configuration, one a line, as config.py declares them: nothing need be installed.
keys() {
    awk '
        /^class / { class = $2; sub(/[(:].*/, "", class) }
        /^    [a-z_]+: / {
            name = $1; sub(/:$/, "", name)
            fields[class] = fields[class] " " name
            type[class "." name] = $2
        }
        function show(class, prefix,    names, count, i) {
            count = split(fields[class], names, " ")
            for (i = 1; i <= count; i++) {
                print prefix names[i]
                if (type[class "." names[i]] in fields)
                    show(type[class "." names[i]], prefix names[i] ".")
            }
        }
        END { show("Experiment", "") }
    ' lovasz_repro/config.py
}

# Whether a flag, without its dashes, is an option of `lovasz-repro study` that takes a value.
takes_value() {
    case $1 in
    launcher | address | mixtures.?*) return 0 ;;
    esac
    keys | grep -qxF -e "${1%+}" # `key+` appends to a list
}

# What there is beside a flag: the keys of its group, or all groups and options.
siblings() {
    local group=""
    [[ $1 != *.* ]] || group=${1%.*}.
    if [[ -n $group ]] && keys | grep -q "^$group"; then
        keys | grep "^$group" | paste -sd ' ' -
    else
        echo "$(keys | grep -v '\.' | paste -sd ' ' -), --dry-run, --verbose, --launcher, --address"
    fi
}

# Stop at the first argument that is not an option and its value. Sets `dry` and `arguments`.
check_arguments() {
    local flag
    while (($#)); do
        flag=${1#--}
        flag=${flag%%=*}
        case $1 in
        --help | -h)
            usage
            exit
            ;;
        --test) fail "--test goes first, without an experiment" ;;
        --dry-run | --dry_run) dry=--dry-run ;;
        --verbose) arguments+=("$1") ;;
        --config | --config=*) fail "--config: name a file of experiments/ as EXPERIMENT instead" ;;
        --*)
            if ! takes_value "$flag"; then
                fail "unknown option --$flag; there is $(siblings "$flag")"
            fi
            arguments+=("$1")
            if [[ $1 != *=* ]]; then
                (($# > 1)) && [[ $2 != --* ]] || fail "--$flag needs a value"
                arguments+=("$2")
                shift
            fi
            ;;
        *) fail "unexpected argument '$1': an EXPERIMENT goes first, then --KEY VALUE pairs" ;;
        esac
        shift
    done
}

# The value of a key: that of the last `--key value` or `--key=value`, else the configuration's line,
# else the default.
value_of() {
    local key=$1 line=$2 default=$3 found i
    found=$(sed -n "s/^$line: *//p" "$config" | sed 's/ *#.*//; s/^["'"'"']//; s/["'"'"']$//')
    if [[ -z $found && $key == data.* ]]; then # data: {root: ...}
        found=$(sed -n "s/^data: *{\(.*[ ,]\)\?${key#data.}: *\([^,} ]*\).*/\2/p" "$config")
    fi
    found=${found:-$default}
    for ((i = 0; i < ${#arguments[@]}; i++)); do
        case ${arguments[i]} in
        "--$key") found=${arguments[i + 1]} ;;
        "--$key="*) found=${arguments[i]#*=} ;;
        esac
    done
    echo "$found"
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
arguments=()
case ${1:-} in
--test)
    shift
    activate
    install "[dev]"
    step "Lint" ruff check .
    step "Types" mypy
    step "Arrows between rooms" lint-imports
    [[ -d ../shared/voc ]] || echo "tests on real data are left out: there is no ../shared/voc"
    step "Tests" python -m pytest "$@"
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
check_arguments "$@"

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
expected=$(sed -n 's/^expected: //p' "$config")
echo "$experiment: ${expected:-how long it takes is not known}"

data=$(value_of data.root '  root' data/voc)
runs=$(value_of runs runs runs)/$(value_of name name "$experiment")
report=reports/${runs##*/}
study=(lovasz-repro study --config "$config" ${arguments[@]+"${arguments[@]}"})
has_data() { [[ -d $data/VOCdevkit/VOC2012/JPEGImages || -d $data/JPEGImages ]]; }

if [[ -n $dry ]]; then
    has_data || echo "would make the data in $data first"
    echo "would run: ${study[*]}"
    echo "then: lovasz-repro report --runs $runs --out $report"
    if has_data && command -v lovasz-repro >/dev/null; then
        "${study[@]}" --dry-run
    fi
    exit
fi
# A wrong value is found before data is made.
"${study[@]}" --check || exit 1
if ! has_data; then
    if [[ $experiment == demo ]]; then
        step "Data: generated shapes" lovasz-repro data shapes --root "$data"
    elif grep -qE '^  classes:|^data: *\{.*classes:' "$config"; then
        fail "no data in $data: neither VOCdevkit/VOC2012/JPEGImages nor JPEGImages is there"
    else
        step "Data: VOC 2012 and SBD" lovasz-repro data fetch --root "$data"
    fi
fi
step "Study: $experiment" "${study[@]}"
step "Report" lovasz-repro report --runs "$runs" --out "$report"
echo "TensorBoard: tensorboard --logdir $runs/tensorboard"
