//! `centerpoint.h` is written by hand: a C compiler compares it with the code. That the header declares no more functions
//! than the library exports is a test of the installed library.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::{c_char, c_void};
use std::fmt::Write as _;
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

use super::*;

/// The C name of a Rust type.
trait Named {
    fn c() -> String;
}

macro_rules! named {
    ($($rust:ty = $c:literal),* $(,)?) => {
        $(impl Named for $rust {
            fn c() -> String {
                $c.to_owned()
            }
        })*
    };
}

named! {
    u8 = "uint8_t", u32 = "uint32_t", i32 = "int32_t", u64 = "uint64_t", i64 = "int64_t", usize = "size_t",
    f32 = "float", f64 = "double", c_char = "char", c_void = "void", () = "void",
    cp_options = "cp_options", cp_field = "cp_field", cp_cloud = "cp_cloud", cp_pose = "cp_pose", cp_box = "cp_box", cp_variances = "cp_variances",
    cp_model_info = "cp_model_info", cp_frame_info = "cp_frame_info", cp_deadline_info = "cp_deadline_info",
    cp_detector = "cp_detector", cp_status = "cp_status",
}

impl<T: Named> Named for *const T {
    fn c() -> String {
        format!("{} const *", T::c())
    }
}

impl<T: Named> Named for *mut T {
    fn c() -> String {
        format!("{} *", T::c())
    }
}

impl<T: Named, const N: usize> Named for [T; N] {
    fn c() -> String {
        // The form in the type of `&member`.
        format!("{} [{N}]", T::c())
    }
}

/// A pointer to the type of a member, for `_Generic`.
fn pointer<T: Named>(_: impl Fn(&cp_status) -> T) -> String {
    let name = T::c();
    match name.split_once('[') {
        Some((element, rest)) => format!("{element} (*)[{rest}"),
        None => format!("{name} *"),
    }
}

/// Assertions about a struct's size and every member's offset and type. Missing a member here is a compile
/// error; a member that only the header has changes the size, because there is no padding.
macro_rules! layout {
    ($out:ident, $name:ident { $($member:ident: $type:ty),* $(,)? }) => {
        let _ = |value: $name| {
            let $name { $($member),* } = value;
            $(let _: $type = $member;)*
        };
        let name = stringify!($name);
        writeln!($out, "SAME(sizeof({name}), {});", size_of::<$name>()).unwrap();
        $(
            let (member, offset) = (stringify!($member), offset_of!($name, $member));
            writeln!($out, "SAME(offsetof({name}, {member}), {offset});").unwrap();
            let of = pointer(|_| -> $type { unreachable!() });
            writeln!($out, "IS({name}, {member}, {of});").unwrap();
        )*
    };
}

/// Checks a function's type in Rust against the C function.
macro_rules! function {
    ($out:ident, $name:ident($($argument:ty),*) -> $result:ty) => {
        let _: unsafe extern "C" fn($($argument),*) -> $result = $name;
        let arguments: Vec<String> = vec![$(<$argument>::c()),*];
        let arguments = if arguments.is_empty() { "void".to_owned() } else { arguments.join(", ") };
        let (name, result) = (stringify!($name), <$result>::c());
        writeln!($out, "{result} (*const check_{name})({arguments}) = {name};").unwrap();
    };
}

/// A C file that compiles only if the header declares what the code has.
fn assertions() -> String {
    let mut out = String::new();
    out.push_str(
        "#include <centerpoint/centerpoint.h>\n\
         #define SAME(c, rust) _Static_assert((c) == (rust), #c)\n\
         #define IS(type, member, of) \\\n\
         _Static_assert(_Generic(&((type *)0)->member, of: 1, default: 0), #type \".\" #member)\n",
    );
    layout!(out, cp_options {
        struct_size: usize, threads: u32, device: i32, score: f32, intensity_scale: f32, budget_ms: f64,
        delay_ms: f64, tensorrt: *const c_char, ground: i32, ground_height: f32, extrinsic: [f64; 6],
        ignore_box: [f32; 6], has_extrinsic: u32, reserved: u32,
    });
    layout!(out, cp_field { name: *const c_char, offset: u32, datatype: u32, count: u32 });
    layout!(out, cp_cloud {
        struct_size: usize, data: *const c_void, data_size: usize, width: u32, height: u32, point_step: u32,
        row_step: u32, fields: *const cp_field, field_count: usize, is_bigendian: u32, reserved: u32,
    });
    layout!(
        out,
        cp_pose {
            x: f64,
            y: f64,
            z: f64,
            qx: f64,
            qy: f64,
            qz: f64,
            qw: f64
        }
    );
    layout!(
        out,
        cp_box {
            center: [f32; 3],
            size: [f32; 3],
            yaw: f32,
            velocity: [f32; 2],
            score: f32,
            class_id: u32,
        }
    );
    layout!(
        out,
        cp_variances {
            center: [f32; 3],
            size: [f32; 3],
            yaw: f32,
            velocity: [f32; 2],
        }
    );
    layout!(
        out,
        cp_model_info {
            struct_size: usize,
            class_count: usize,
            column_count: usize,
            sweeps: usize,
            capacity: usize,
            max_boxes: usize,
            threads: usize,
            range: [f64; 6],
        }
    );
    layout!(
        out,
        cp_frame_info {
            struct_size: usize,
            points: u64,
            dropped_non_finite: u64,
            dropped_out_of_range: u64,
            dropped_pillar_points: u64,
            dropped_pillars: u64,
            dropped_candidates: u64,
            dropped_non_finite_candidates: u64,
            dropped_sweep_points: u64,
            read_ms: f64,
            pillars_ms: f64,
            features_ms: f64,
            scatter_ms: f64,
            engine_ms: f64,
            decode_ms: f64,
            nms_ms: f64,
            total_ms: f64,
            sweeps: u32,
            sweeps_without_pose: u32,
            missing_intensity: u32,
            reserved: u32,
            ground_height: f32,
            ground_spread: f32,
            ground_cells: u32,
            reserved2: u32,
        }
    );
    layout!(
        out,
        cp_deadline_info {
            struct_size: usize,
            budget_ms: f64,
            budget_delay_ms: f64,
            frames: u64,
            misses: u64,
            consecutive: u64,
            longest: u64,
            last_ms: f64,
            delay_ms: f64,
            level: i32,
            reserved: u32,
        }
    );
    type Box = *mut cp_box;
    type Count = *mut usize;
    function!(out, cp_version() -> *const c_char);
    function!(out, cp_abi_version() -> u32);
    function!(out, cp_last_error() -> *const c_char);
    function!(
        out,
        cp_load(*const c_char, *const cp_options, *mut *mut cp_detector) -> cp_status
    );
    function!(out, cp_free(*mut cp_detector) -> ());
    function!(
        out,
        cp_model(*const cp_detector, *mut cp_model_info) -> cp_status
    );
    function!(
        out,
        cp_class_name(*const cp_detector, usize) -> *const c_char
    );
    function!(
        out,
        cp_column_name(*const cp_detector, usize) -> *const c_char
    );
    function!(
        out,
        cp_detect(*mut cp_detector, *const cp_cloud, Box, usize, Count) -> cp_status
    );
    function!(
        out,
        cp_detect_device(*mut cp_detector, *const c_void, usize, Box, usize, Count) -> cp_status
    );
    function!(
        out,
        cp_push_sweep(*mut cp_detector, *const cp_cloud, i64, *const cp_pose) -> cp_status
    );
    function!(out, cp_clear_sweeps(*mut cp_detector) -> cp_status);
    function!(
        out,
        cp_detect_sweeps(*mut cp_detector, Box, usize, Count) -> cp_status
    );
    function!(
        out,
        cp_last_boxes(*const cp_detector, Box, usize, Count) -> cp_status
    );
    function!(
        out,
        cp_last_variances(*const cp_detector, *mut cp_variances, usize, Count) -> cp_status
    );
    function!(
        out,
        cp_last_frame(*const cp_detector, *mut cp_frame_info) -> cp_status
    );
    function!(
        out,
        cp_check(*mut cp_detector, *const cp_cloud, *mut c_char, usize, Count) -> cp_status
    );
    function!(
        out,
        cp_deadline(*const cp_detector, *mut cp_deadline_info) -> cp_status
    );
    for (name, number) in numbers() {
        writeln!(out, "SAME({name}, {number});").unwrap();
    }
    out
}

/// Every number defined by the header.
fn numbers() -> Vec<(&'static str, i64)> {
    macro_rules! statuses {
        ($($name:ident),*) => {{
            // Missing a status here is a compile error.
            let _ = |status: cp_status| match status { $(cp_status::$name => {})* };
            vec![$((stringify!($name), cp_status::$name as i64)),*]
        }};
    }
    let mut numbers = statuses!(
        CP_OK,
        CP_ERROR_ARGUMENT,
        CP_ERROR_PLAN,
        CP_ERROR_DEVICE,
        CP_ERROR_CLOUD,
        CP_ERROR_SWEEP,
        CP_ERROR_UNSUPPORTED,
        CP_ERROR_BUSY,
        CP_ERROR_PANIC
    );
    numbers.extend([
        // The numbers of sensor_msgs/PointField and diagnostic_msgs/DiagnosticStatus.
        ("CP_INT8", 1),
        ("CP_UINT8", 2),
        ("CP_INT16", 3),
        ("CP_UINT16", 4),
        ("CP_INT32", 5),
        ("CP_UINT32", 6),
        ("CP_FLOAT32", 7),
        ("CP_FLOAT64", 8),
        ("CP_GROUND_PLAN", 0),
        ("CP_GROUND_AUTO", 1),
        ("CP_GROUND_HEIGHT", 2),
        ("CP_LEVEL_OK", 0),
        ("CP_LEVEL_WARN", 1),
        ("CP_LEVEL_ERROR", 2),
        ("CP_DEVICE_AUTO", 0),
        ("CP_DEVICE_CPU", 1),
        ("CP_DEVICE_CUDA", 2),
        ("CP_ABI_VERSION", i64::from(cp_abi_version())),
    ]);
    numbers
}

#[test]
fn header_and_code_agree() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("layout.c");
    std::fs::write(&source, assertions()).unwrap();
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/capi/include");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let done = Command::new(compiler)
        .args([
            "-std=c11",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-pedantic",
            "-fsyntax-only",
            "-I",
        ])
        .arg(&include)
        .arg(source)
        .output()
        .expect("a C compiler is installed, or named by CC");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let header = std::fs::read_to_string(include.join("centerpoint/centerpoint.h")).unwrap();
    let version = format!("#define CP_VERSION \"{}\"\n", env!("CARGO_PKG_VERSION"));
    assert!(header.contains(&version), "{version}");
    let in_code: BTreeSet<&str> = numbers().into_iter().map(|(name, _)| name).collect();
    let in_header = header
        .lines()
        .filter_map(|line| line.trim().split_once(" = "));
    let in_header = in_header
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("CP_"));
    let in_header: BTreeSet<&str> = in_header.chain(["CP_ABI_VERSION"]).collect();
    assert_eq!(in_header, in_code);
    #[cfg(feature = "build")]
    assert_eq!(super::install::SONAME, "libcenterpoint.so.0");
}
