//! The plan file: a single file with everything that inference needs.
//!
//! ```text
//! 0   magic        8 bytes  "CPPLAN\r\n"
//! 8   version      u32      [`VERSION`]
//! 12  sections     u32      rows of the table
//! 16  length       u64      bytes of the whole file
//! 24  checksum     32 bytes SHA-256 of everything from byte 64 on
//! 56  reserved     8 bytes  zero
//! 64  table        32 bytes a section: name (8 bytes, zero padded), offset u64, length u64, zero u64
//! …   sections     each at a multiple of 64
//! ```
//!
//! All numbers are little endian. A CPU plan has the sections `manifest` (JSON, [`Manifest`]), `model` (the text of
//! `model.toml`), `pfn` (f32: weight then bias of each layer), `program` (JSON) and `weights` (packed in the engine's
//! order). The same inputs produce the same bytes: a plan contains no times and no paths.
//!
//! A plan is read once, into memory of our own that is aligned to pages; sections are parts of it. Whatever happens to the
//! file later concerns nobody who has opened it. A memory map of the file would save the copy, but a file that is cut
//! under a map ends the process, and one that is overwritten changes the weights.

pub(crate) mod config;
mod manifest;
mod quantization;
mod tensorrt;
mod version;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use manifest::{Accuracy, PfnShape};
pub use manifest::{Manifest, Target};
use memmap2::{Mmap, MmapMut};
pub(crate) use quantization::{
    Calibrated, CalibrationKey, Candidate, OutputSqnr, Quantization, Quantizer, QuantizerKind,
    Sqnr, Training,
};
use sha2::{Digest, Sha256};
pub(crate) use tensorrt::{BuiltOn, LayerCounts};
pub use tensorrt::{HardwareCompatibility, IoFormats, TensorDesc, TensorRtOptions, TensorRtTarget};
pub use version::{Family, Version};

use crate::files;
use crate::model::{Model, ModelError};
use crate::model::{Pfn, PfnError, PfnLayer};

/// The format's version; readers accept no other.
pub(crate) const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"CPPLAN\r\n";
const HEADER: usize = 64;
const ROW: usize = 32;
const ALIGN: usize = 64;
const MAX_SECTIONS: usize = 64;
/// Most bytes of the manifest and of the model description, which are parsed into memory. The manifest of an INT8 plan
/// has a number for every output channel.
const MAX_TEXT: usize = 1 << 20;

/// The bytes of one section; keeps the whole plan in memory.
#[derive(Clone)]
pub struct Section {
    bytes: Arc<Mmap>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Section {
    fn as_ref(&self) -> &[u8] {
        // `open` checked the range against the file.
        self.bytes.get(self.range.clone()).unwrap_or(&[])
    }
}

/// An opened plan.
pub struct Plan {
    path: PathBuf,
    sections: BTreeMap<String, Section>,
    manifest: Manifest,
    model: Model,
    pfn: Pfn,
}

impl Plan {
    /// Reads a plan and checks everything except the engine's payload: magic, version, length, table, checksum, manifest,
    /// model description and PFN.
    ///
    /// # Errors
    /// [`PlanError`] with the file, the value found and the value expected.
    pub fn open(path: &Path) -> Result<Self, PlanError> {
        let io = |source| PlanError::Io {
            path: path.into(),
            source,
        };
        if std::fs::metadata(path).map_err(io)?.len() < HEADER as u64 {
            let source = std::fs::read(path).map_err(io)?;
            return Err(not_a_plan(path, &source));
        }
        let bytes = Arc::new(read_whole(path).map_err(io)?);
        let sections = read_table(path, &bytes)?;
        let broken = |what: String| PlanError::Broken {
            path: path.into(),
            what,
        };
        let text = |name: &str| -> Result<&str, PlanError> {
            let section = sections
                .get(name)
                .ok_or_else(|| broken(format!("no section `{name}`")))?;
            let bytes = section.range.len();
            if bytes > MAX_TEXT {
                return Err(broken(format!(
                    "section `{name}` has {bytes} bytes, the limit is {MAX_TEXT}"
                )));
            }
            std::str::from_utf8(section.bytes.get(section.range.clone()).unwrap_or(&[]))
                .map_err(|e| broken(format!("section `{name}` is not UTF-8: {e}")))
        };
        let manifest: Manifest = serde_json::from_str(text("manifest")?)
            .map_err(|e| broken(format!("section `manifest`: {e}")))?;
        let model = Model::parse(text("model")?, path)?;
        let values = sections
            .get("pfn")
            .ok_or_else(|| broken("no section `pfn`".into()))?;
        let pfn = read_pfn(&manifest.pfn, values.as_ref()).map_err(broken)?;
        pfn.check(&model).map_err(|source| PlanError::Pfn {
            path: path.into(),
            source,
        })?;
        Ok(Self {
            path: path.into(),
            sections,
            manifest,
            model,
            pfn,
        })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The model description.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The pillar feature network, with BN folded in.
    pub fn pfn(&self) -> &Pfn {
        &self.pfn
    }

    /// A section's bytes.
    ///
    /// # Errors
    /// [`PlanError::Broken`] if the plan has no such section.
    pub fn section(&self, name: &str) -> Result<Section, PlanError> {
        self.sections
            .get(name)
            .cloned()
            .ok_or_else(|| PlanError::Broken {
                path: self.path.clone(),
                what: format!("no section `{name}`"),
            })
    }

    /// Names and sizes in bytes of all sections.
    pub fn sections(&self) -> impl Iterator<Item = (&str, usize)> {
        self.sections
            .iter()
            .map(|(name, section)| (name.as_str(), section.range.len()))
    }
}

/// The contents of a plan to write.
pub struct Contents<'a> {
    /// The manifest; `write` fills in its `pfn`.
    pub manifest: Manifest,
    /// Text of the model description.
    pub model_text: &'a str,
    /// The pillar feature network, with BN folded in.
    pub pfn: &'a Pfn,
    /// The engine's sections, with names of at most 8 bytes.
    pub engine: Vec<(&'static str, &'a [u8])>,
}

/// Writes a plan to `path` atomically.
///
/// # Errors
/// [`PlanError::Write`].
pub fn write(path: &Path, contents: Contents<'_>) -> Result<(), PlanError> {
    files::write_with(path, |file| encode(contents, file)).map_err(|error| PlanError::Write {
        path: error.path,
        source: error.source,
    })
}

/// Reads a file into memory that is aligned to pages and belongs to this process.
pub(crate) fn read_whole(path: &Path) -> std::io::Result<Mmap> {
    let mut file = std::fs::File::open(path)?;
    let bytes = file.metadata()?.len();
    let bytes = usize::try_from(bytes).map_err(|_| std::io::ErrorKind::FileTooLarge)?;
    let mut memory = MmapMut::map_anon(bytes)?;
    file.read_exact(&mut memory)?;
    memory.make_read_only()
}

/// Writes the sections one by one, without copying a large engine.
fn encode(mut contents: Contents<'_>, file: &mut impl Write) -> std::io::Result<()> {
    contents.manifest.pfn = contents
        .pfn
        .layers
        .iter()
        .map(|l| PfnShape {
            in_features: l.in_features,
            out_features: l.out_features,
        })
        .collect();
    let mut manifest = serde_json::to_vec_pretty(&contents.manifest)?;
    manifest.push(b'\n');
    let mut pfn: Vec<u8> = Vec::new();
    for layer in &contents.pfn.layers {
        for value in layer.weight.iter().chain(&layer.bias) {
            pfn.extend(value.to_le_bytes());
        }
    }
    let mut sections: Vec<(&str, &[u8])> = vec![
        ("manifest", &manifest),
        ("model", contents.model_text.as_bytes()),
        ("pfn", &pfn),
    ];
    sections.extend(contents.engine.iter().map(|(name, bytes)| (*name, *bytes)));

    let mut head = vec![0u8; HEADER + ROW * sections.len()];
    let mut end = head.len();
    // The file's parts after the table: padding and sections.
    let mut parts: Vec<&[u8]> = Vec::with_capacity(2 * sections.len());
    for (i, (name, section)) in sections.iter().enumerate() {
        let offset = end.next_multiple_of(ALIGN);
        parts.extend([&[0; ALIGN][..offset - end], *section]);
        end = offset + section.len();
        let row = HEADER + ROW * i;
        head[row..row + name.len().min(8)].copy_from_slice(&name.as_bytes()[..name.len().min(8)]);
        head[row + 8..row + 16].copy_from_slice(&(offset as u64).to_le_bytes());
        head[row + 16..row + 24].copy_from_slice(&(section.len() as u64).to_le_bytes());
    }
    head[..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head[12..16].copy_from_slice(&(sections.len() as u32).to_le_bytes());
    head[16..24].copy_from_slice(&(end as u64).to_le_bytes());
    let mut checksum = Sha256::new_with_prefix(&head[HEADER..]);
    parts.iter().for_each(|part| checksum.update(part));
    head[24..56].copy_from_slice(&checksum.finalize());
    file.write_all(&head)?;
    parts.iter().try_for_each(|part| file.write_all(part))
}

fn not_a_plan(path: &Path, start: &[u8]) -> PlanError {
    if start.starts_with(&MAGIC) {
        let what = format!("{} bytes, but the header alone has {HEADER}", start.len());
        return PlanError::Broken {
            path: path.into(),
            what,
        };
    }
    PlanError::NotAPlan { path: path.into() }
}

/// Little-endian integer of `N` bytes at `at`. Zero past the end; all callers have checked the length.
fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0u8; 8];
    for (to, from) in value.iter_mut().zip(bytes.iter().skip(at).take(N)) {
        *to = *from;
    }
    u64::from_le_bytes(value)
}

fn read_table(path: &Path, memory: &Arc<Mmap>) -> Result<BTreeMap<String, Section>, PlanError> {
    let bytes: &[u8] = memory;
    let broken = |what: String| PlanError::Broken {
        path: path.into(),
        what,
    };
    if !bytes.starts_with(&MAGIC) {
        return Err(not_a_plan(path, bytes));
    }
    let version = number::<4>(bytes, 8) as u32;
    if version != VERSION {
        return Err(PlanError::Version {
            path: path.into(),
            found: version,
            expected: VERSION,
        });
    }
    let length = number::<8>(bytes, 16);
    if length != bytes.len() as u64 {
        return Err(broken(format!(
            "{} bytes, but the header says {length}",
            bytes.len()
        )));
    }
    let count = number::<4>(bytes, 12) as usize;
    let table = HEADER + ROW * count.min(MAX_SECTIONS + 1);
    if count > MAX_SECTIONS || table > bytes.len() {
        return Err(broken(format!(
            "the file has no room for a table of {count} sections"
        )));
    }
    if Sha256::digest(&bytes[HEADER..])[..] != bytes[24..56] {
        return Err(broken(
            "the checksum does not match; copy or build the file again".into(),
        ));
    }
    let mut sections = BTreeMap::new();
    for row in (HEADER..table).step_by(ROW) {
        let name = String::from_utf8_lossy(&bytes[row..row + 8])
            .trim_end_matches('\0')
            .to_string();
        let (offset, length) = (number::<8>(bytes, row + 8), number::<8>(bytes, row + 16));
        let end = offset
            .checked_add(length)
            .filter(|end| *end <= bytes.len() as u64);
        let Some(end) = end.filter(|_| offset.is_multiple_of(ALIGN as u64)) else {
            return Err(broken(format!(
                "section `{name}` at {offset} with {length} bytes is outside the file or unaligned"
            )));
        };
        let section = Section {
            bytes: memory.clone(),
            range: offset as usize..end as usize,
        };
        if sections.insert(name.clone(), section).is_some() {
            return Err(broken(format!("section `{name}` exists twice")));
        }
    }
    Ok(sections)
}

fn read_pfn(shapes: &[PfnShape], bytes: &[u8]) -> Result<Pfn, String> {
    let mut values = bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let mut expected = 0usize;
    for shape in shapes {
        expected = shape
            .out_features
            .checked_mul(shape.in_features)
            .and_then(|n| n.checked_add(shape.out_features))
            .and_then(|n| n.checked_add(expected))
            .ok_or("PFN sizes overflow")?;
    }
    if expected.checked_mul(4) != Some(bytes.len()) {
        let found = bytes.len();
        return Err(format!(
            "section `pfn` has {found} bytes, but its layers need {expected} values"
        ));
    }
    let layers = shapes
        .iter()
        .map(|shape| PfnLayer {
            in_features: shape.in_features,
            out_features: shape.out_features,
            weight: values
                .by_ref()
                .take(shape.in_features * shape.out_features)
                .collect(),
            bias: values.by_ref().take(shape.out_features).collect(),
        })
        .collect();
    Ok(Pfn { layers })
}

/// An error from reading or writing a plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The file could not be opened or mapped.
    #[error("{path}: cannot open the plan")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file could not be written.
    #[error("{path}: cannot write the plan")]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file is not a plan.
    #[error(
        "{path}: not a centerpoint plan; make one with `cp-build compile` \
         (a bare TensorRT engine is not a plan)"
    )]
    NotAPlan {
        /// The file.
        path: PathBuf,
    },
    /// The plan has another format version.
    #[error(
        "{path}: plan format {found}, this program reads {expected}; build the plan again with \
        `cp-build compile`"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Version in the file.
        found: u32,
        /// Version that this program reads.
        expected: u32,
    },
    /// A file of scores is invalid.
    #[error(
        "{path}: not a file of scores: {what}; make one with `cp-build eval --plan … --format json`"
    )]
    Accuracy {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The plan is damaged or inconsistent.
    #[error("{path}: broken plan: {what}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the values found and expected.
        what: String,
    },
    /// The plan's model description is invalid.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The plan's PFN does not match its model description.
    #[error("{path}: the PFN does not match the model description")]
    Pfn {
        /// The file.
        path: PathBuf,
        /// The mismatch.
        source: PfnError,
    },
    /// The plan's target is not the requested one.
    #[error("{path}: made for `{found}`, but {wanted}; {advice}")]
    Target {
        /// The file.
        path: PathBuf,
        /// The plan's target.
        found: String,
        /// The request.
        wanted: String,
        /// What to do.
        advice: String,
    },
}
