//! Command lines of trtexec, the program that comes with TensorRT: from a strongly typed network to an engine,
//! for those who would rather build with that than with `cp-build compile --target tensorrt`.
//!
//! | | TensorRT 10 | TensorRT 11 |
//! |---|---|---|
//! | `--stronglyTyped` | needed, or types in the file are only a hint | always so, the option does nothing |
//! | `--fp16`, `--int8`, `--best` | wrong here, they are ignored with a warning | gone |
//! | `--inputIOFormats`, `--outputIOFormats` | `type:layout` of each tensor | `layout`: types are the network's |
//!
//! In the sources of trtexec: `samples/common/sampleOptions.cpp`, 10.3 and 11.1.

use serde::{Deserialize, Serialize};

use super::folder::RPN;
use crate::plan::TensorDesc;

/// Name of the engine in the command lines.
const ENGINE: &str = "engine.plan";
/// Name of the plan.
const PLAN: &str = "model.plan";

/// What to run, in the network's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commands {
    /// Builds the engine with TensorRT 10.
    pub trtexec_10: String,
    /// Builds it with TensorRT 11.
    pub trtexec_11: String,
    /// Makes a plan of it.
    pub pack: String,
}

impl Commands {
    /// For a network with these inputs and outputs, in the network's order.
    pub fn new(tensors: &[TensorDesc]) -> Self {
        let formats = |input: bool| {
            let all = tensors.iter().filter(|t| t.input == input);
            let formats: Vec<String> = all.map(|t| format!("{}:chw", t.element)).collect();
            formats.join(",")
        };
        let build = |options: &str| {
            format!(
                "trtexec --onnx={RPN} {options} --profilingVerbosity=detailed --saveEngine={ENGINE}"
            )
        };
        Self {
            trtexec_10: build(&format!(
                "--stronglyTyped --inputIOFormats={} --outputIOFormats={}",
                formats(true),
                formats(false)
            )),
            // One layout is for all.
            trtexec_11: build("--inputIOFormats=chw --outputIOFormats=chw"),
            pack: format!("cp-build pack --engine {ENGINE} --model . --out {PLAN}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::Element;

    #[test]
    fn each_tensor_has_its_type_for_10_and_none_for_11() {
        let tensor = |name: &str, input, element| TensorDesc {
            name: name.into(),
            input,
            element,
            scale: None,
            dims: vec![],
        };
        let commands = Commands::new(&[
            tensor("spatial_features", true, Element::I8),
            tensor("heatmap", false, Element::F16),
            tensor("reg", false, Element::F16),
        ]);
        assert_eq!(
            commands.trtexec_10,
            "trtexec --onnx=pts_backbone_neck_head.onnx --stronglyTyped --inputIOFormats=int8:chw \
             --outputIOFormats=fp16:chw,fp16:chw --profilingVerbosity=detailed --saveEngine=engine.plan"
        );
        assert_eq!(
            commands.trtexec_11,
            "trtexec --onnx=pts_backbone_neck_head.onnx --inputIOFormats=chw --outputIOFormats=chw \
             --profilingVerbosity=detailed --saveEngine=engine.plan"
        );
        assert_eq!(
            commands.pack,
            "cp-build pack --engine engine.plan --model . --out model.plan"
        );
    }
}
