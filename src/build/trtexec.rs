//! Command lines for trtexec, which comes with TensorRT, to build an engine from a strongly typed network. An
//! alternative to `cp-build compile --target tensorrt`.
//!
//! | | TensorRT 10 | TensorRT 11 |
//! |---|---|---|
//! | `--stronglyTyped` | required, otherwise types in the file are only hints | implied, the option has no effect |
//! | `--fp16`, `--int8`, `--best` | must not be used; ignored with a warning | removed |
//! | `--inputIOFormats`, `--outputIOFormats` | `type:layout` per tensor | `layout`; types come from the network |
//!
//! Source: trtexec's `samples/common/sampleOptions.cpp`, versions 10.3 and 11.1.

use serde::{Deserialize, Serialize};

use super::folder::RPN;
use crate::plan::TensorDesc;

/// File name of the engine.
const ENGINE: &str = "engine.plan";
/// File name of the plan.
const PLAN: &str = "model.plan";

/// Commands to run in the network's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Commands {
    /// Builds the engine with TensorRT 10.
    pub trtexec_10: String,
    /// Builds it with TensorRT 11.
    pub trtexec_11: String,
    /// Packs the engine into a plan.
    pub pack: String,
}

impl Commands {
    /// The commands for a network with these inputs and outputs, in network order.
    pub(crate) fn new(tensors: &[TensorDesc]) -> Self {
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
            // A single layout applies to all tensors.
            trtexec_11: build("--inputIOFormats=chw --outputIOFormats=chw"),
            pack: format!("cp-build pack --engine {ENGINE} --model . --out {PLAN}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::Element;

    #[test]
    fn formats_include_types_for_10_but_not_for_11() {
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
