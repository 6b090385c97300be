#!/bin/sh
# Removes from /opt/venv what is never used in the image; with ACCELERATOR=cpu also what only a GPU would need.
set -eu

here=$(dirname "$0")
cd /opt/venv/lib/python3.11/site-packages

# Other projects' own tests, Ray for Java, headers for a compiler that is not there.
for package in matplotlib networkx numba numpy pandas pyarrow scipy sklearn sympy; do
    find "$package" -type d -name tests -prune -exec rm -r {} +
done
rm -r ray/jars torch/include

if [ "$ACCELERATOR" != cpu ]; then
    exit 0
fi

/tools/bin/uv pip uninstall --quiet --python /opt/venv/bin/python \
    triton cuda-toolkit cuda-bindings cuda-pathfinder nvidia-cuda-cccl nvidia-cusolver nvidia-nvtx
# cuDNN opens its parts when a convolution is asked of a GPU.
find nvidia/cudnn/lib -name 'libcudnn_*.so.*' -delete
# For the compiler of kernels, for profilers, and for talk between nodes.
find nvidia \( -name '*.bc' -o -name '*.a' -o -name 'libnvperf_*' -o -name 'libcheckpoint*' -o -name 'libnvrtc-builtins*' \
    -o -name 'libpcsampling*' -o -name 'nvshmem_transport_*' -o -name 'nvshmem_bootstrap_*' \) -delete
find nvidia -type d -name include -prune -exec rm -r {} +
rm openvino/libs/libopenvino_intel_gpu_plugin.so openvino/libs/libopenvino_intel_npu_plugin.so
# What torch is linked against, and calls when there is a GPU only.
/opt/venv/bin/python "$here/cuda_stubs.py" nvidia
