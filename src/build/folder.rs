//! The model folder: a description and two ONNX files, as AWML and mmdetection3d export them. Import
//! creates a folder, and compile turns it into a plan.
//!
//! ```text
//! DIR/model.toml  DIR/pts_voxel_encoder.onnx  DIR/pts_backbone_neck_head.onnx  DIR/manifest.json
//! ```
//!
//! A folder of Autoware's model repository is a model folder, too, see [`autoware`].
//!
//! A quantised model has the same form: its network is FP32 with Q/DQ pairs, its PFN is equalised, and its
//! manifest holds the record of the quantisation.

mod autoware;
mod checkpoint;
mod manifest;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(crate) use checkpoint::import_checkpoint;
pub(crate) use manifest::{CheckpointOrigin, FolderManifest, make};

use super::checkpoint::ScaleUse;
use super::import::{Pfe, Rpn, read_pfe, read_rpn, rpn_of};
use super::onnx::{self, Graph};
use super::{BuildError, compile, foreign, hash};
use crate::build::Result;
use crate::engine::tensorrt::Monitor;
use crate::files;
use crate::model::autoware::{Common, Description, read};
use crate::model::file::read_text;
use crate::model::{Model, ModelError, Pfn};
use crate::plan::{self, Accuracy, Contents, Manifest, PlanError, Quantization, Target};
use crate::program::Payload;

/// File name of the model description.
pub(crate) const MODEL: &str = "model.toml";
/// File name of the pillar feature network.
pub(crate) const PFE: &str = "pts_voxel_encoder.onnx";
/// File name of backbone, neck and head.
pub(crate) const RPN: &str = "pts_backbone_neck_head.onnx";
/// File name of the folder's manifest.
pub(crate) const MANIFEST: &str = "manifest.json";

/// A checked model folder.
pub struct Folder {
    path: PathBuf,
    /// The files of the two networks.
    files: [PathBuf; 2],
    /// The description.
    pub model: Model,
    /// The text of the description.
    pub model_text: String,
    /// The pillar feature network.
    pub pfe: Pfe,
    /// Backbone, neck and head, with the description's names.
    pub rpn: Rpn,
    /// How this program quantised the network, if it did.
    pub quantization: Option<Quantization>,
    /// The changes to a quantised model before it was written to the folder, one line each.
    recorded_steps: Vec<String>,
    /// Values of the description that Autoware's files left to its node, one line each.
    pub assumed: Vec<String>,
}

/// The source files of an import.
pub struct Sources<'a> {
    /// Pillar feature network; optional for Autoware's folders.
    pub pfe: Option<&'a Path>,
    /// Backbone, neck and head; optional for Autoware's folders.
    pub rpn: Option<&'a Path>,
    /// One TOML file, or Autoware's YAML files, or a folder of Autoware's and further YAML files.
    pub model: &'a [PathBuf],
}

/// Key in a quantised network's metadata with the hash of the PFN that belongs to it.
const BOUND_PFN: &str = "centerpoint.pfn";

/// Records in a network which PFN it was equalised with; with any other PFN its results are useless.
pub(super) fn bind(network: &mut Graph, pfn: &Pfn) {
    network.set_metadata(BOUND_PFN, &pfn_hash(pfn));
}

/// SHA-256 of a PFN's values.
fn pfn_hash(pfn: &Pfn) -> String {
    let values = pfn
        .layers
        .iter()
        .flat_map(|l| l.weight.iter().chain(&l.bias));
    let bytes: Vec<u8> = values.flat_map(|v| v.to_le_bytes()).collect();
    hash::sha256(&bytes)
}

/// The program and version that wrote a file.
pub(crate) fn producer() -> String {
    concat!("centerpoint ", env!("CARGO_PKG_VERSION")).into()
}

impl Folder {
    /// Reads a folder and checks that its files belong together.
    ///
    /// # Errors
    /// [`BuildError`] or [`ModelError`] with the file, and the tensor, node or key.
    pub fn read(path: &Path) -> Result<Self> {
        if let Some(found) = autoware::find(path)? {
            let mut folder = Self::from_autoware(found, None, None, &[])?;
            folder.path = path.into();
            return Ok(folder);
        }
        let manifest = FolderManifest::read(path)?;
        if manifest.as_ref().is_some_and(|m| m.typed.is_some()) {
            return Err(BuildError::Folder {
                path: path.join(RPN),
                what: "this network is for TensorRT's builder; use the model folder that it was exported from"
                    .into(),
            });
        }
        let description = path.join(MODEL);
        let model_text = read_text(&description)?;
        let model = Model::parse(&model_text, &description)?;
        let pfe = read_pfe(&path.join(PFE))?;
        let mut folder = Self::checked(
            path,
            model,
            model_text,
            pfe,
            &path.join(PFE),
            &path.join(RPN),
        )?;
        // Steps of an import are not recorded, because reading the files repeats them. Those before the files are.
        if let Some(manifest) = manifest.as_ref().filter(|m| m.checkpoint.is_some()) {
            folder.recorded_steps.clone_from(&manifest.steps);
        }
        let Some(manifest) = manifest.filter(|m| m.quantization.is_some()) else {
            return Ok(folder);
        };
        if !folder.is_quantized() {
            return Err(BuildError::Folder {
                path: path.join(MANIFEST),
                what: format!("it records a quantisation, but {RPN} has no Q/DQ pairs"),
            });
        }
        folder.quantization = manifest.quantization;
        folder.recorded_steps = manifest.steps;
        Ok(folder)
    }

    /// Reads exported files from any place.
    ///
    /// # Errors
    /// As [`Folder::read`].
    pub fn from_sources(sources: &Sources<'_>) -> Result<Self> {
        let Sources { pfe, rpn, model } = sources;
        if let Some((dir, more)) = model.split_first().filter(|(first, _)| first.is_dir()) {
            let found = autoware::find(dir)?.ok_or_else(|| BuildError::Folder {
                path: dir.clone(),
                what: "not a folder of Autoware's models: expected ml_package.param.yaml and no model.toml"
                    .into(),
            })?;
            return Self::from_autoware(found, *pfe, *rpn, more);
        }
        let (Some(pfe_path), Some(rpn_path)) = (pfe, rpn) else {
            return Err(BuildError::Folder {
                path: model.first().cloned().unwrap_or_default(),
                what: "a description without its networks; name both ONNX files (--pfe, --rpn)"
                    .into(),
            });
        };
        let pfe = read_pfe(pfe_path)?;
        let description = description(model, &pfn_layers(&pfe))?;
        Self::described(description, pfe, pfe_path, rpn_path)
    }

    /// Reads a folder of Autoware's with further parameter files, and with other networks if they are given.
    fn from_autoware(
        found: autoware::Found,
        pfe: Option<&Path>,
        rpn: Option<&Path>,
        more: &[PathBuf],
    ) -> Result<Self> {
        let pfe_path = pfe.unwrap_or(&found.pfe);
        let pfe = read_pfe(pfe_path)?;
        let files = [&found.parameters, more].concat();
        let description = read(&files, &pfn_layers(&pfe), Common::Shipped)?;
        Self::described(description, pfe, pfe_path, rpn.unwrap_or(&found.rpn))
    }

    pub(super) fn described(
        description: Description,
        pfe: Pfe,
        pfe_path: &Path,
        rpn_path: &Path,
    ) -> Result<Self> {
        for assumed in &description.assumed {
            log::info!("{assumed}");
        }
        let mut folder = Self::checked(
            Path::new(""),
            description.model,
            description.text,
            pfe,
            pfe_path,
            rpn_path,
        )?;
        folder.assumed = description.assumed;
        Ok(folder)
    }

    fn checked(
        path: &Path,
        model: Model,
        model_text: String,
        pfe: Pfe,
        pfe_path: &Path,
        rpn_path: &Path,
    ) -> Result<Self> {
        let pfe = fitted_pfe(pfe, pfe_path, &model)?;
        let rpn = read_rpn(rpn_path, &model)?;
        let bound = rpn.graph.metadata(BOUND_PFN);
        if bound.is_some_and(|hash| hash != pfn_hash(&pfe.pfn)) {
            return Err(BuildError::Folder {
                path: rpn_path.into(),
                what: format!(
                    "quantised with a different PFN than the one in {}; use the PFN from the same folder",
                    pfe_path.display()
                ),
            });
        }
        Ok(Self {
            path: path.into(),
            files: [pfe_path, rpn_path].map(PathBuf::from),
            model,
            model_text,
            pfe,
            rpn,
            quantization: None,
            recorded_steps: Vec::new(),
            assumed: Vec::new(),
        })
    }

    /// Path of the folder; empty after [`Folder::from_sources`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files of the pillar feature network, and of backbone, neck and head.
    pub(crate) fn network_files(&self) -> [&Path; 2] {
        let [pfe, rpn] = &self.files;
        [pfe, rpn]
    }

    /// Whether the network has Q/DQ pairs, from this program or another tool.
    pub fn is_quantized(&self) -> bool {
        let mut nodes = self.rpn.graph.nodes();
        nodes.any(|node| node.op() == "DequantizeLinear")
    }

    /// Makes the network float: drops its Q/DQ pairs, and stores weights as the values of their codes. Returns whether it had
    /// pairs.
    fn drop_scales(&mut self) -> Result<bool> {
        if !self.is_quantized() {
            let path = self.rpn.graph.path().display();
            log::warn!("{path}: no Q/DQ pairs, so there are no scales to drop");
            return Ok(false);
        }
        let mut graph = self.rpn.graph.clone();
        let values = foreign::without_pairs(&mut graph)?;
        // Without pairs, more can be fused.
        self.rpn = Rpn {
            normalized: std::mem::take(&mut self.rpn.normalized),
            ..rpn_of(graph, &self.model)?
        };
        let step = format!("dropped the scales of {} values", values.len());
        self.recorded_steps.push(step);
        Ok(true)
    }

    /// SHA-256 of the folder's model files by name, for manifests. An Autoware folder's description counts as what it
    /// becomes.
    ///
    /// # Errors
    /// [`BuildError`] for a file that cannot be read.
    pub fn hashes(&self) -> Result<BTreeMap<String, String>> {
        let mut hashes = BTreeMap::new();
        hashes.insert(
            String::from(MODEL),
            hash::sha256(self.model_text.as_bytes()),
        );
        for (name, path) in [PFE, RPN].into_iter().zip(&self.files) {
            hashes.extend(hash::network(path, name)?);
        }
        Ok(hashes)
    }

    /// The payload for the CPU engine.
    ///
    /// # Errors
    /// [`BuildError`] with the node that the engine does not support.
    pub fn cpu_payload(&self) -> Result<Payload> {
        compile::cpu(&self.rpn.graph)
    }

    /// The changes to both networks, one line each, for manifests and reports: the recorded steps of a
    /// quantised folder, and the nodes that were folded or rewritten on reading. Plans hold these texts.
    pub fn steps(&self) -> Vec<String> {
        let rewritten = &self.rpn.rewritten;
        let rewritten = rewritten
            .iter()
            .map(|n| format!("rewrote {n} as a 1x1 Conv"));
        let read = [&self.pfe.fused, &self.rpn.fused]
            .into_iter()
            .flat_map(|report| {
                let fused = report
                    .fused
                    .iter()
                    .map(|f| format!("fused {} into {}", f.node, f.into));
                let kept = report
                    .kept
                    .iter()
                    .map(|k| format!("kept {}: {}", k.node, k.reason));
                fused.chain(kept)
            });
        let left_aside = self.pfe.left_aside.iter();
        let left_aside = left_aside
            .map(|name| format!("dropped the quantiser of \"{name}\": the PFN runs in float"));
        let all = self
            .recorded_steps
            .iter()
            .cloned()
            .chain(left_aside)
            .chain(self.rpn.normalized.iter().cloned())
            .chain(read)
            .chain(rewritten);
        all.collect()
    }

    /// Compiles the folder into a plan for the CPU.
    ///
    /// # Errors
    /// [`BuildError`] if the engine does not support the network, [`PlanError`] if writing the plan fails.
    pub fn compile_cpu(&self, out: &Path, accuracy: Option<Accuracy>) -> Result<()> {
        let network = Network {
            payload: &self.cpu_payload()?,
            pfn: &self.pfe.pfn,
            steps: self.steps(),
            quantization: self.quantization.clone(),
        };
        self.write_cpu(out, network, accuracy)
    }

    /// Writes the plan of a network that was derived from this folder's.
    ///
    /// # Errors
    /// [`PlanError`] if writing the plan fails.
    pub fn write_cpu(
        &self,
        out: &Path,
        network: Network<'_>,
        accuracy: Option<Accuracy>,
    ) -> Result<()> {
        let Network {
            payload,
            pfn,
            steps,
            quantization,
        } = network;
        let program = serde_json::to_vec(&payload.program).map_err(|e| PlanError::Write {
            path: out.into(),
            source: e.into(),
        })?;
        let precision = if quantization.is_some() || self.is_quantized() {
            "int8"
        } else {
            "fp32"
        };
        let manifest = Manifest {
            target: Target {
                engine: "cpu".into(),
                precision: precision.into(),
                version: env!("CARGO_PKG_VERSION").into(),
                tensorrt: None,
            },
            steps,
            quantization,
            accuracy,
            ..Manifest::default()
        };
        let engine = vec![("program", &program[..]), ("weights", &payload.weights)];
        self.write(out, manifest, pfn, engine)
    }

    /// Compiles the folder into a plan for TensorRT.
    ///
    /// # Errors
    /// As [`compile::tensorrt::build`], and [`PlanError`] if writing the plan fails.
    pub fn compile_tensorrt(
        &self,
        out: &Path,
        request: compile::tensorrt::Request<'_>,
        monitor: &dyn Monitor,
        accuracy: Option<Accuracy>,
    ) -> Result<compile::tensorrt::Compiled> {
        let compiled = compile::tensorrt::build(&self.rpn.graph, request, monitor)?;
        let manifest = Manifest {
            target: compiled.target.clone(),
            steps: self.steps(),
            quantization: self.quantization.clone(),
            accuracy,
            ..Manifest::default()
        };
        let layers = compiled.layers.as_ref().map(serde_json::to_vec).transpose();
        let layers = layers.map_err(|e| PlanError::Write {
            path: out.into(),
            source: e.into(),
        })?;
        let mut engine = vec![("engine", &compiled.engine[..])];
        engine.extend(layers.as_ref().map(|table| ("layers", &table[..])));
        self.write(out, manifest, &self.pfe.pfn, engine)?;
        Ok(compiled)
    }

    /// Writes a plan, with this program and the folder's hashes in its manifest.
    fn write(
        &self,
        out: &Path,
        manifest: Manifest,
        pfn: &Pfn,
        engine: Vec<(&'static str, &[u8])>,
    ) -> Result<()> {
        let contents = Contents {
            manifest: Manifest {
                producer: producer(),
                inputs: self.hashes()?,
                ..manifest
            },
            model_text: &self.model_text,
            pfn,
            engine,
        };
        Ok(plan::write(out, contents)?)
    }
}

/// Copies a network into a model folder: byte for byte, or with its external data inside.
///
/// # Errors
/// As [`Graph::read`] and [`Graph::write`].
pub(super) fn copy_network(from: &Path, to: &Path) -> Result<()> {
    if !onnx::data_files(from)?.is_empty() {
        return Graph::read(from)?.write(to);
    }
    let bytes = std::fs::read(from).map_err(BuildError::io(from))?;
    Ok(files::write(to, &bytes)?)
}

/// Checks that a PFN matches the description, and folds what the description says about its columns into its weights.
pub(crate) fn fitted_pfe(mut pfe: Pfe, path: &Path, model: &Model) -> Result<Pfe> {
    pfe.pfn.check(model).map_err(|source| BuildError::Pfn {
        path: path.into(),
        source,
    })?;
    if let Some(found) = pfe
        .max_points
        .filter(|&n| n != model.grid.max_points_per_pillar)
    {
        return Err(BuildError::graph(
            path,
            format!(
                "exported for {found} points per pillar, but the description's \
                 `grid.max_points_per_pillar` is {}",
                model.grid.max_points_per_pillar
            ),
        ));
    }
    pfe.pfn.fold_legacy(model);
    Ok(pfe)
}

/// Reads the parts of a plan besides its engine: the description's text and the PFN, which must match.
///
/// # Errors
/// As [`Folder::read`].
pub(super) fn read_stages(description: &Path, pfe_path: &Path) -> Result<(String, Pfn)> {
    let text = read_text(description)?;
    let model = Model::parse(&text, description)?;
    let pfe = fitted_pfe(read_pfe(pfe_path)?, pfe_path, &model)?;
    Ok((text, pfe.pfn))
}

/// The parts of a plan that differ from the folder's files.
pub struct Network<'a> {
    /// The CPU engine's payload.
    pub payload: &'a Payload,
    /// The pillar feature network.
    pub pfn: &'a Pfn,
    /// The changes to both, one line each.
    pub steps: Vec<String>,
    /// How they were quantised.
    pub quantization: Option<Quantization>,
}

/// The model description of an import: a TOML file, or Autoware's YAML files, which lack the widths of the PFN's layers.
fn description(files: &[PathBuf], pfn_layers: &[usize]) -> Result<Description> {
    let is_yaml = |path: &PathBuf| path.extension().is_some_and(|e| e == "yaml" || e == "yml");
    if files.iter().any(is_yaml) {
        return Ok(read(files, pfn_layers, Common::Required)?);
    }
    let [path] = files else {
        return Err(ModelError::Syntax {
            path: files.first().cloned().unwrap_or_default(),
            message: "expected one model.toml, or Autoware's YAML files".into(),
        }
        .into());
    };
    let text = read_text(path)?;
    Ok(Description {
        model: Model::parse(&text, path)?,
        text,
        assumed: Vec::new(),
    })
}

/// The widths of the PFN's layers, which Autoware's YAML files lack.
pub(super) fn pfn_layers(pfe: &Pfe) -> Vec<usize> {
    let last = pfe.pfn.layers.len().saturating_sub(1);
    let widths = pfe.pfn.layers.iter().enumerate();
    let widths = widths.map(|(i, l)| {
        if i == last {
            l.out_features
        } else {
            2 * l.out_features
        }
    });
    widths.collect()
}

/// Checks exported files and copies them into a model folder, with a manifest of their hashes.
///
/// # Errors
/// As [`Folder::read`], and [`BuildError::Exists`] if `out` already contains a model and `force` is not set.
pub fn import(sources: &Sources<'_>, out: &Path, force: bool) -> Result<Folder> {
    import_with(sources, ScaleUse::Keep, out, force)
}

/// As [`import`]; a quantised network may lose its scales on the way.
///
/// # Errors
/// As [`import`].
pub(crate) fn import_with(
    sources: &Sources<'_>,
    scales: ScaleUse,
    out: &Path,
    force: bool,
) -> Result<Folder> {
    let mut folder = Folder::from_sources(sources)?;
    let dropped = scales == ScaleUse::Drop && folder.drop_scales()?;
    // Compiling reports unsupported operators now and not later.
    folder.cpu_payload()?;
    make(out, force)?;
    let mut inputs = BTreeMap::new();
    for (from, name) in folder.files.iter().zip([PFE, RPN]) {
        inputs.extend(hash::network(from, name)?);
        if name == RPN && dropped {
            folder.rpn.graph.write(&out.join(name))?;
        } else {
            copy_network(from, &out.join(name))?;
        }
    }
    files::write(&out.join(MODEL), folder.model_text.as_bytes())?;
    inputs.insert(MODEL.into(), hash::sha256(folder.model_text.as_bytes()));
    FolderManifest {
        producer: producer(),
        inputs,
        steps: folder.steps(),
        ..FolderManifest::default()
    }
    .write(out)?;
    folder.path = out.into();
    folder.files = [PFE, RPN].map(|name| out.join(name));
    Ok(folder)
}
