//! `vmette providers`.

use crate::stdio;

/// Lists the registered providers, each with an example.
pub(crate) fn providers() -> u8 {
    let mut text = String::from("A rootfs can be named as:\n");
    for name in vmette::provider::default_registry(None).names() {
        let example = match name {
            "dir" => "./rootfs, /srv/rootfs, ~/rootfs — a folder; the guest never writes to it",
            "squashfs" => "squashfs+file:///srv/image.sqfs — a squashfs image",
            "tar" => "tar+file:///srv/rootfs.tar.gz — an archive, plain or compressed",
            "builtin" => "builtin — a small busybox userland, used when none is named",
            "oci" => "python:3.12-alpine — an image of a registry",
            _ => "see its documentation",
        };
        text.push_str(&format!("  - {name}\n      {example}\n"));
    }
    if !text.contains("- builtin") {
        text.push_str("  - builtin\n      builtin — a small busybox userland, used when none is named\n");
    }
    text.push_str("\nImages of registries (oci) are not supported by this version.\n");
    stdio::print_out(&text);
    0
}
