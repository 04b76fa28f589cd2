//! `vmette providers`.

use crate::stdio;

/// Lists the registered providers, each with an example.
pub(crate) fn providers() -> u8 {
    let mut text = String::from("A rootfs can be named as:\n");
    // The built-in one needs a busybox to be made of, not to be listed.
    for (name, form) in vmette::provider::default_registry(None).described() {
        let example = match name {
            "dir" => "./rootfs, /srv/rootfs, ~/rootfs — a folder; the guest never writes to it",
            "squashfs" => {
                "squashfs+file:///srv/image.sqfs, squashfs+https://host/image.sqfs — a squashfs image"
            }
            "tar" => {
                "tar+file:///srv/rootfs.tar.gz, tar+https://host/rootfs.tar.gz#sha256=… — an archive, plain or compressed"
            }
            "builtin" => "builtin — a small busybox userland, used when none is named",
            "oci-layout" => {
                "oci-layout:./layout:tag — a folder in the OCI layout, as skopeo and umoci make it"
            }
            "oci-archive" => "oci-archive:./image.tar:tag — the same layout in an archive",
            "docker-archive" => "docker-archive:./image.tar — what `docker save` writes",
            "oci" => "python:3.12-alpine, ghcr.io/owner/name@sha256:… — an image of a registry",
            _ => form,
        };
        text.push_str(&format!("  - {name}\n      {example}\n"));
    }
    stdio::print_out(&text);
    0
}
