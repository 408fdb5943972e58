//! What the programs, the node, the tests and the benches use besides the public names, at the same paths. No part of
//! the API: a release may change any of it.
#![allow(missing_docs)]

#[cfg(feature = "mcap")]
pub mod bag {
    pub use crate::bag::{Bag, BagError, FrameOptions, Frames, POINT_CLOUD};
    pub mod cloud {
        pub use crate::bag::cloud::read;
    }
    pub mod messages {
        pub use crate::bag::messages::{
            Header, PointCloud2, PointField, Quaternion, TFMessage, Time, TransformStamped, Vector3,
        };
    }
    pub mod tf {
        pub use crate::bag::tf::{TfBuffer, TfError};
    }
}
pub mod boxes {
    pub use crate::boxes::BevRect;
}
#[cfg(feature = "build")]
pub mod build {
    pub mod calibrate {
        pub use crate::build::calibrate::{
            AmaxMethod, Calibration, CalibrationError, Histogram, RangeError, ZERO_AMAX, scale,
        };
        pub mod raw {
            pub use crate::build::calibrate::raw::read;
        }
    }
    pub mod compile {
        pub use crate::build::compile::cpu;
        pub mod tensorrt {
            pub use crate::build::compile::tensorrt::{Compiled, Request, build};
        }
    }
    pub mod config {
        pub use crate::build::config::{Config, Recipe};
    }
    pub mod deconv {
        pub use crate::build::deconv::rewrite;
    }
    pub mod engine_layers {
        pub use crate::build::engine_layers::{EngineLayer, LayerTable, Outcome};
        pub mod log {
            pub use crate::build::engine_layers::log::{io_tensors, layers};
        }
    }
    pub mod export {
        pub use crate::build::export::pfe;
    }
    pub mod fuse {
        pub use crate::build::fuse::fuse;
    }
    pub mod half {
        pub use crate::build::half::{Io, strongly_typed};
    }
    pub mod import {
        pub use crate::build::import::{Matching, Rpn, read_pfe, read_rpn};
    }
    pub mod lower {
        pub use crate::build::lower::{
            ConvSpec, ConvWeight, Direction, MaxPoolSpec, ProgramBuilder,
        };
    }
    pub mod onnx {
        pub use crate::build::onnx::{Graph, decode, encode};
        pub mod proto {
            pub use crate::build::onnx::proto::{
                AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto,
            };
        }
        pub mod tensor {
            pub use crate::build::onnx::tensor::{from_codes, from_floats, from_integers};
        }
    }
    pub mod quantize {
        pub use crate::build::quantize::{Placement, insert_qdq, tensors_to_calibrate};
    }
    pub mod sensitivity {
        pub use crate::build::sensitivity::Report;
    }
}
pub mod capi {
    pub use crate::capi::{
        cp_cloud, cp_deadline, cp_deadline_info, cp_detect, cp_detect_sweeps, cp_field, cp_free,
        cp_load, cp_pose, cp_push_sweep, cp_status,
    };
}
pub mod chain {
    pub use crate::chain::Chain;
}
#[cfg(feature = "cli")]
pub mod cli {
    pub use crate::cli::{DeviceArg, init_log, parse, positive};
    pub mod bench {
        pub use crate::cli::bench::main;
    }
    #[cfg(feature = "build")]
    pub mod build {
        pub use crate::cli::build::main;
    }
    pub mod exit {
        pub use crate::cli::exit::{code, finish};
    }
    pub mod infer {
        pub use crate::cli::infer::main;
    }
}
pub mod cpu {
    pub mod decode {
        pub use crate::cpu::decode::{Candidate, CandidateList, decode};
    }
    pub mod features {
        pub use crate::cpu::features::{Features, features};
    }
    pub mod nms {
        pub use crate::cpu::nms::{Nms, remap, suppress};
    }
    pub mod pillars {
        pub use crate::cpu::pillars::{Pillars, voxelize};
    }
    pub mod pool {
        pub use crate::cpu::pool::Pool;
    }
    pub mod scatter {
        pub use crate::cpu::scatter::{Scatter, scatter};
    }
}
pub mod cuda {
    pub use crate::cuda::device::{Buffer, CopyEnd, Launch, Stream, StreamWork, gpu};
    pub use crate::cuda::input::Input;
    pub mod decode {
        pub use crate::cuda::decode::{CandidateList, decode};
    }
    pub mod features {
        pub use crate::cuda::features::{Features, features};
    }
    pub mod input {
        pub use crate::cuda::input::FrameHeader;
    }
    pub mod nms {
        pub use crate::cuda::nms::{Nms, suppress};
    }
    pub mod peak {
        pub use crate::cuda::peak::peak;
    }
    pub mod pillars {
        pub use crate::cuda::pillars::{DownloadedPillars, Pillars, voxelize};
    }
    pub mod scatter {
        pub use crate::cuda::scatter::{Scatter, scatter};
    }
}
#[cfg(feature = "cli")]
pub mod draw {
    pub use crate::draw::class_color;
}
pub mod elementary {
    pub use crate::elementary::{atan2, exp, sin_cos};
}
pub mod engine {
    pub mod cuda {
        pub use crate::engine::cuda::{Computed, CudaEngine, Options};
    }
    pub mod cpu {
        pub use crate::engine::cpu::{CpuEngine, Isa, Options};
    }
    pub mod lazy {
        pub use crate::engine::lazy::{LazyHeads, LazyTask};
    }
    pub mod tensorrt {
        pub use crate::engine::tensorrt::{
            BuildRequest, Built, Family, HardwareCompatibility, Library, Monitor, Progress, Version,
        };
        pub mod choice {
            pub use crate::engine::tensorrt::choice::choose;
        }
    }
}
#[cfg(any(feature = "cli", feature = "build"))]
pub mod eval {
    pub mod nuscenes {
        pub use crate::eval::nuscenes::{Config, evaluate};
    }
    pub mod t4 {
        pub use crate::eval::t4::{Config, evaluate};
    }
}
pub mod model {
    #[cfg(feature = "autoware")]
    pub mod autoware {
        pub use crate::model::autoware::{Autoware, Parameters, Setting, Value};
    }
    pub mod region {
        pub use crate::model::region::{corners, is_box};
    }
}
pub mod plan {
    pub use crate::plan::{
        Contents, IoFormats, Manifest, Target, TensorDesc, TensorRtOptions, TensorRtTarget, write,
    };
}
pub mod program {
    pub use crate::program::{DepthToSpaceMode, Payload, Program, ProgramError};
}
pub mod results {
    pub mod nuscenes {
        pub use crate::results::nuscenes::{Results, SampleBox};
    }
}
#[cfg(feature = "build")]
pub mod testing {
    pub use crate::testing::{FixedEngine, Null, Random, TINY, tiny_pfn};
    pub mod nets {
        pub use crate::testing::nets::{int, ints, model, node, value};
    }
    pub mod networks {
        pub use crate::testing::networks::{Network, quantized};
    }
}
