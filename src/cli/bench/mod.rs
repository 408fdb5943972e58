//! `cp-bench`: measures the latency of plans, like `trtexec`.

mod args;
mod files;

use crate::cli::input::Input;
use crate::cli::interrupt::{self, First};
use crate::cli::{self, GpuEngineArg, exit};
use crate::files::FileError;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use crate::bench::memory::Resident;
use crate::bench::report::{self, Memory};
use crate::bench::{Comparison, Feed, Machine, Profile, Recording, Report, Run, State};
use crate::bench::{Subject, measure};
use crate::detector::{Detector, Options};
use crate::{Error, cuda};
use args::{Args, Case};
use files::Files;

/// Network runs for `--dump-profile`.
const PROFILES: usize = 20;

/// Runs `cp-bench`; `allocations` counts those of the process so far.
pub fn main(allocations: fn() -> u64) -> ExitCode {
    cli::init_log(cli::LOG);
    let args = cli::parse::<Args>(std::env::args_os());
    interrupt::handle("cp-bench", First::Stop);
    match run(&args, allocations) {
        Ok(()) if interrupt::stopped() => {
            eprintln!("cp-bench: interrupted; the results are those of the frames until then");
            ExitCode::from(interrupt::EXIT)
        }
        done => exit::finish("cp-bench", done),
    }
}

/// The results of a case.
struct CaseResults {
    runs: Vec<Run>,
    recordings: Vec<Recording>,
    profiles: Vec<Profile>,
}

fn run(args: &Args, allocations: fn() -> u64) -> Result<(), Error> {
    args.input.check_options()?;
    cli::check_outputs(args.outputs(), args.plans().chain(args.input.paths()))?;
    // Report an unwritable file before the measurement, not after it.
    let files = Files::create(args)?;
    let root = Path::new("/");
    let machine = Machine::read(root);
    let before = State::read(root);
    let cases = args.cases();
    let (mut runs, mut recordings, mut profiles) = (Vec::new(), Vec::new(), Vec::new());
    let (mut comparisons, mut times) = (Vec::new(), Vec::new());
    for case in &cases {
        if !runs.is_empty() && interrupt::stopped() {
            break;
        }
        let measured = measure_case(args, case, allocations)?;
        let first = runs.len();
        let compared = Comparison::all(&measured.recordings);
        comparisons.extend(compared.into_iter().map(|c| c.after(first)));
        times.extend(report::times(&measured.recordings, first));
        runs.extend(measured.runs);
        recordings.extend(measured.recordings);
        profiles.extend(measured.profiles);
    }
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        settings: (&args.settings()).into(),
        machine,
        before,
        after: State::read(root),
        runs,
        comparisons,
        interrupted: interrupt::stopped(),
    };
    let mut out = std::io::stdout().lock();
    let written = write!(out, "{report}").and_then(|()| {
        let profiles = profiles.iter().filter(|_| args.dump_profile);
        profiles.zip(&report.runs).try_for_each(|(profile, run)| {
            write!(out, "\n=== Profile: {} ===\n{profile}", run.plan)
        })
    });
    written.map_err(FileError::new(Path::new("standard output"), "write"))?;
    files.write(&report, &recordings, &times, &profiles)
}

/// Loads the plans of a case and measures them in turn.
fn measure_case(args: &Args, case: &Case, allocations: fn() -> u64) -> Result<CaseResults, Error> {
    let (settings, root) = (args.settings(), Path::new("/"));
    let start = Resident::read(root);
    let options = args.input.apply(Options {
        threads: args.threads,
        device: args.device.into(),
        fp16: args.gpu_engine == GpuEngineArg::Cuda,
        tensorrt: args.library.clone(),
        stage_times: true,
        ..Options::default()
    });
    let mut subjects = Vec::with_capacity(case.plans.len());
    for plan in &case.plans {
        let detector = Detector::load(plan, &options)?;
        let model = detector.model();
        let feed = Feed::new(&case.input, model, || Input::clouds(&args.input, model))?;
        subjects.push(Subject { detector, feed });
    }
    let recordings = measure(
        &mut subjects,
        &settings,
        Some(allocations),
        interrupt::stopped,
    )?;
    let memory = Memory {
        start,
        end: Resident::read(root),
        device: subjects
            .first()
            .and_then(|subject| subject.detector.device())
            .and_then(cuda::Device::memory_used),
        allocations: None,
    };
    let measured = case.plans.iter().zip(&subjects).zip(&recordings);
    let runs = measured.map(|((plan, subject), recording)| {
        Run::new(
            plan,
            subject,
            recording,
            &settings,
            &args.percentile,
            memory,
        )
    });
    let runs = runs.collect();
    let mut profiles = Vec::new();
    if args.dump_profile || args.export_profile.is_some() {
        for subject in &mut subjects {
            let mut profile = Profile::default();
            for _ in 0..PROFILES {
                profile.add(&subject.detector.profile()?);
            }
            profiles.push(profile);
        }
    }
    Ok(CaseResults {
        runs,
        recordings,
        profiles,
    })
}
