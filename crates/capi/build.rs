//! How the shared library is linked.

/// What `dlopen` and the linker look for. Before 1.0 a minor version may change the interface.
fn soname(version: &str) -> String {
    let mut parts = version.split('.');
    match (parts.next(), parts.next()) {
        (Some("0"), Some(minor)) => format!("libvmette.so.0.{minor}"),
        (Some(major), _) => format!("libvmette.so.{major}"),
        (None, _) => "libvmette.so".to_owned(),
    }
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let soname = soname(env!("CARGO_PKG_VERSION"));
    println!("cargo:rustc-env=VMETTE_SONAME={soname}");
    let link = |argument: &str| println!("cargo:rustc-cdylib-link-arg={argument}");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "macos") {
        link("-Wl,-install_name,@rpath/libvmette.dylib");
        return;
    }
    link(&format!("-Wl,-soname,{soname}"));
    // Threads that outlive a session would go on in code that `dlclose` took away.
    link("-Wl,-z,nodelete");
}
