//! The code of a module: kernels as C++, or PTX. Both run on the memory of the stand-in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use emulation::{Call, Library};

use crate::calls::{executed, number};
use crate::nvrtc;
use crate::world::World;

/// The kernels of a source.
#[derive(Clone)]
pub(crate) enum Code {
    Cpp(Arc<Library>),
    Ptx(Arc<ptx::Module>),
}

impl Code {
    /// The C++ of a source. A library stays loaded once it is, because its threads' stacks do.
    pub(crate) fn cpp(source: PathBuf) -> Option<Self> {
        static LIBRARIES: LazyLock<Mutex<BTreeMap<PathBuf, Arc<Library>>>> =
            LazyLock::new(Mutex::default);
        let include = source.parent()?.to_owned();
        let mut libraries = LIBRARIES.lock().unwrap_or_else(PoisonError::into_inner);
        let known = libraries.entry(source.clone());
        let new = || Arc::new(Library::new(source, &include, &nvrtc::cache(), false));
        Some(Self::Cpp(known.or_insert_with(new).clone()))
    }

    /// PTX, or why it cannot be read.
    pub(crate) fn ptx(text: &str) -> Result<Self, String> {
        let module = ptx::Module::parse(text).map_err(|error| error.to_string())?;
        Ok(Self::Ptx(Arc::new(module)))
    }

    /// The bytes of a kernel's parameters, if there is such a kernel.
    pub(crate) fn param_bytes(&self, kernel: &str) -> Option<usize> {
        match self {
            Self::Cpp(library) => library.param_bytes(kernel),
            Self::Ptx(module) => Some(module.kernel(kernel)?.param_bytes()),
        }
    }

    /// Runs a kernel. Returns the reason if it fails.
    ///
    /// # Safety
    /// The addresses in the parameters are of living memory, and nothing else uses it.
    pub(crate) unsafe fn run(&self, call: &Call<'_>, world: &World) -> Result<(), String> {
        let module = match self {
            // SAFETY: this method's contract.
            Self::Cpp(library) => return unsafe { library.run(call) },
            Self::Ptx(module) => module,
        };
        let launch = ptx::Launch {
            kernel: call.kernel,
            grid: call.grid,
            block: [call.block, 1, 1],
            shared: call.shared,
            params: call.params,
        };
        let set = |name| number(name, 0) != 0;
        let options = ptx::Options {
            seed: call.seed,
            independent: set("CENTERPOINT_STANDIN_INDEPENDENT"),
            races: set("CENTERPOINT_STANDIN_RACES"),
            architecture: 0,
        };
        // SAFETY: this method's contract.
        let counts = unsafe { ptx::run(module, &launch, &Allocations(world), &options) };
        let counts = counts.map_err(|fault| fault.to_string())?;
        executed(call.kernel, &counts);
        Ok(())
    }
}

/// The stand-in's memory, for the interpreter.
struct Allocations<'a>(&'a World);

impl ptx::Memory for Allocations<'_> {
    fn allocation(&self, address: u64) -> Option<(u64, usize)> {
        let memory = self.0.find(address, 1)?;
        Some((memory.address, memory.bytes))
    }
}
