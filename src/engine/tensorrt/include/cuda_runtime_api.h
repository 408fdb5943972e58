// What TensorRT's headers name of the CUDA runtime: two opaque handles. With this no CUDA toolkit is
// needed to compile the shim, and nothing of the runtime is linked.
#pragma once

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
