// The only names of the CUDA runtime that TensorRT's headers use: two opaque handles. With this file the shim compiles
// without a CUDA toolkit and links nothing of the runtime.
#pragma once

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
