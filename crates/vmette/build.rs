//! Builds the guest's `/init` and lays it where the library embeds it.
//!
//! The guest is a program for another machine: a static, non-PIE Linux binary, whatever the host's flags, profile or
//! lint wrapper are. Cargo cannot yet depend on such an artifact, so a nested cargo builds it, into a target folder of
//! its own (the outer one is locked by the cargo that waits for us).

use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

/// Names a prebuilt `vmette-guest` to embed instead of building one.
const PREBUILT: &str = "VMETTE_GUEST_BIN";

/// Static and non-PIE: nothing to relocate before the first instruction of PID 1, which counts under emulation.
/// Separated by 0x1f, as `CARGO_ENCODED_RUSTFLAGS` asks.
const RUSTFLAGS: &str = "-Ctarget-feature=+crt-static\u{1f}-Crelocation-model=static\u{1f}-Cpanic=abort";

/// Elsewhere than on Linux there is no linker for Linux but the one that comes with Rust, and no C library but the one
/// that comes with this kind of target.
const CROSS_LINKER: &str = "-Clinker=rust-lld";
const CROSS_SYSTEM: &str = "unknown-linux-musl";

/// What the outer cargo, clippy or a coverage tool set for the host's crates and must not reach the guest's.
/// The wrappers are emptied, not removed: an empty value also outranks one in a configuration file.
const EMPTIED: [&str; 2] = ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"];
const REMOVED: [&str; 6] = [
    "RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET_DIR",
    "CLIPPY_ARGS",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed={PREBUILT}");
    let out = PathBuf::from(var("OUT_DIR"));
    let guest = match env::var_os(PREBUILT).filter(|path| !path.is_empty()) {
        Some(path) => {
            println!("cargo:rerun-if-changed={}", Path::new(&path).display());
            let guest = read(Path::new(&path));
            // As /init of an otherwise empty root it would not start, and the kernel would not say why.
            assert!(
                !needs_loader(&guest),
                "{PREBUILT}={}: it is dynamically linked; name a static one",
                path.display()
            );
            guest
        }
        None if var("HOST").contains("linux") && var("CARGO_CFG_TARGET_OS") == "linux" => {
            read(&build(&out, &var("TARGET"), RUSTFLAGS))
        }
        None => cross_built(&out),
    };
    let mut digest = String::new();
    for byte in Sha256::digest(&guest) {
        write!(digest, "{byte:02x}").expect("writing to a string");
    }
    println!("cargo:rustc-env=VMETTE_GUEST_SHA256={digest}");
    let embedded = out.join("vmette-guest");
    fs::write(&embedded, guest).unwrap_or_else(|error| panic!("{}: {error}", embedded.display()));
}

/// The guest for a host that is not Linux. Where Rust cannot build for Linux nothing is embedded; the library then says so
/// when a machine is started.
fn cross_built(out: &Path) -> Vec<u8> {
    let triple = format!("{}-{CROSS_SYSTEM}", var("CARGO_CFG_TARGET_ARCH"));
    let sysroot = Command::new(var("RUSTC")).args(["--print", "sysroot"]).output();
    let sysroot = sysroot.unwrap_or_else(|error| panic!("rustc --print sysroot: {error}")).stdout;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot).trim());
    if !sysroot.join("lib/rustlib").join(&triple).exists() {
        println!(
            "cargo:warning=no guest is built in, and vmette will not start machines without --initramfs; \
             `rustup target add {triple}` and a rebuild change that"
        );
        return Vec::new();
    }
    read(&build(out, &triple, &format!("{RUSTFLAGS}\u{1f}{CROSS_LINKER}")))
}

/// Runs the nested cargo and returns the binary's path.
fn build(out: &Path, triple: &str, rustflags: &str) -> PathBuf {
    let workspace = PathBuf::from(var("CARGO_MANIFEST_DIR")).join("../..");
    for input in [
        "Cargo.toml",
        "Cargo.lock",
        "crates/guest/Cargo.toml",
        "crates/guest/src",
        "crates/wire/Cargo.toml",
        "crates/wire/src",
    ] {
        println!("cargo:rerun-if-changed={}", workspace.join(input).display());
    }
    let target_dir = guest_target_dir(out);
    let mut cargo = Command::new(var("CARGO"));
    cargo
        .current_dir(&workspace)
        .args(["build", "--release", "--locked", "-p", "vmette-guest", "--bin", "vmette-guest"])
        .args(["--target", triple])
        .arg("--target-dir")
        .arg(&target_dir)
        // It is small, and each of its bytes is unpacked at every cold boot.
        .env("CARGO_PROFILE_RELEASE_LTO", "thin")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags);
    for name in EMPTIED {
        cargo.env(name, "");
    }
    for name in REMOVED {
        cargo.env_remove(name);
    }
    let status = cargo.status().unwrap_or_else(|error| panic!("cargo for the guest: {error}"));
    assert!(status.success(), "building vmette-guest for {triple} failed ({status}); its errors are above");
    target_dir.join(triple).join("release/vmette-guest")
}

/// `<target>/guest`, found from `<target>/<profile>/build/<package>/out`, so that debug, release and clippy builds of
/// the library share one guest.
fn guest_target_dir(out: &Path) -> PathBuf {
    out.ancestors()
        .find(|folder| folder.file_name() == Some(OsStr::new("build")))
        .and_then(|build| build.parent()?.parent())
        .unwrap_or(out)
        .join("guest")
}

/// Whether a 64-bit little-endian ELF file names a loader in a program header, of type `PT_INTERP`: elf(5).
fn needs_loader(program: &[u8]) -> bool {
    const PT_INTERP: [u8; 4] = [3, 0, 0, 0];
    let bytes = |at: usize, length: usize| program.get(at..at.checked_add(length)?);
    let short = |at| bytes(at, 2).map_or(0, |b| usize::from(u16::from_le_bytes([b[0], b[1]])));
    let table = bytes(0x20, 8).and_then(|b| usize::try_from(u64::from_le_bytes(b.try_into().ok()?)).ok());
    let (size, count) = (short(0x36), short(0x38));
    (0..count).any(|nth| {
        let at = table.and_then(|table| table.checked_add(nth * size));
        at.and_then(|at| bytes(at, 4)).is_some_and(|kind| kind == PT_INTERP)
    })
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("the guest binary {}: {error}", path.display()))
}

fn var(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}
