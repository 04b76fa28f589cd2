//! What of the host the guest can reach.

use library::{ShareMount, VsockConnect, VsockForward, VsockPort};

use super::{VmetteConfig, add, set};
use crate::arguments::Text;
use crate::status::{Failure, VmetteStatus};

/// The original's default.
const GUEST_VSOCK_PORT: u32 = 1025;

/// Grants a host folder, writable, at `/mnt/<tag>`. Tags are letters, digits, `-`, `_` and `.`; `ctl`, `rootfs`,
/// `certs` and `agent` are vmette's own.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_add_share(
    config: Option<&mut VmetteConfig>,
    tag: Text,
    path: Text,
) -> VmetteStatus {
    add(config, "vmette_config_add_share", |config| {
        config.grants.shares.push(ShareMount::new(tag.required("tag")?, path.required_os("path")?));
        Ok(())
    })
}

/// Grants a host folder at `target` of the guest, or at `/mnt/<tag>` if that is NULL. The host refuses writes to it
/// when it is `read_only`.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_add_share_at(
    config: Option<&mut VmetteConfig>,
    tag: Text,
    path: Text,
    target: Text,
    read_only: bool,
) -> VmetteStatus {
    add(config, "vmette_config_add_share_at", |config| {
        let target = target.optional("target")?.map(str::to_owned);
        let share = ShareMount::new(tag.required("tag")?, path.required_os("path")?);
        config.grants.shares.push(ShareMount { read_only, target, ..share });
        Ok(())
    })
}

/// Grants a raw disk image, read-write.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_add_disk(config: Option<&mut VmetteConfig>, path: Text) -> VmetteStatus {
    add(config, "vmette_config_add_disk", |config| {
        config.grants.disks.push(path.required("path")?.into());
        Ok(())
    })
}

/// Whether the guest has a network: it then reaches what the host's own network reaches. An engine that cannot keep it away
/// from the host's loopback refuses that when the session starts, and a machine with a network cannot be saved.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_net(config: Option<&mut VmetteConfig>, net: bool) -> VmetteStatus {
    set(config, "vmette_config_set_net", |config| {
        config.grants.net = net;
        Ok(())
    })
}

/// The host's vsock port that the guest is told of: below 0 none, and no vsock device; 0 one of 50000 to 59999, or the
/// first of vmette_config_add_vsock_forward(); above 0 this one. Unless set there is a device only if one of the functions
/// below asks for it.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_vsock_port(config: Option<&mut VmetteConfig>, port: i32) -> VmetteStatus {
    set(config, "vmette_config_set_vsock_port", |config| {
        config.vsock.port = match u32::try_from(port) {
            Err(_) => VsockPort::Disabled,
            Ok(0) => VsockPort::Auto,
            Ok(port) => VsockPort::Fixed(port),
        };
        // Whoever asks for a port, whichever it is, wants the device that it is a port of.
        config.vsock.device = port == 0;
        Ok(())
    })
}

/// Whether the machine has a vsock device although no port asks for one: for vmette_session_vsock_listen() and
/// vmette_session_vsock_connect().
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_vsock(config: Option<&mut VmetteConfig>, vsock: bool) -> VmetteStatus {
    set(config, "vmette_config_set_vsock", |config| {
        config.vsock.device = vsock;
        Ok(())
    })
}

/// Whether the session's command finds, at the port that it is told of, somebody who sends back what it sends; the
/// notice function is shown that as VMETTE_NOTICE_KIND_VSOCK. True unless set, but not where a forward has that port, nor
/// without a command. False leaves the port to vmette_session_vsock_listen().
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_vsock_echo(
    config: Option<&mut VmetteConfig>,
    echo: bool,
) -> VmetteStatus {
    set(config, "vmette_config_set_vsock_echo", |config| {
        config.vsock.echo = Some(echo);
        Ok(())
    })
}

/// Grants a UNIX socket of the host, on which somebody listens: each connection of the guest to that vsock port of the
/// host, 1 to 4294967294, becomes one to it.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_add_vsock_forward(
    config: Option<&mut VmetteConfig>,
    port: u32,
    path: Text,
) -> VmetteStatus {
    add(config, "vmette_config_add_vsock_forward", |config| {
        config.vsock.forwards.push(VsockForward { port, path: path.required("path")?.into() });
        Ok(())
    })
}

/// Makes a UNIX socket on the host that leads into the guest, in a folder that exists: each connection to it, by this user
/// only, becomes one to that vsock port of the guest, 1 to 4294967294. It goes with the session.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_add_vsock_connect(
    config: Option<&mut VmetteConfig>,
    port: u32,
    path: Text,
) -> VmetteStatus {
    add(config, "vmette_config_add_vsock_connect", |config| {
        config.vsock.connects.push(VsockConnect { port, path: path.required("path")?.into() });
        Ok(())
    })
}

/// Of no use any more: snapshots need no vsock port of the guest. Only 1025, which programs for the original say, is taken;
/// InvalidConfig for another one.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_guest_vsock_port(
    config: Option<&mut VmetteConfig>,
    port: u32,
) -> VmetteStatus {
    set(config, "vmette_config_set_guest_vsock_port", |_| match port {
        GUEST_VSOCK_PORT => Ok(()),
        _ => Err(Failure::new(
            VmetteStatus::InvalidConfig,
            "snapshots use no vsock port of the guest any more",
        )),
    })
}

/// Folder with CA certificates (`*.pem`, `*.crt`, `*.cer`) that the workload trusts; NULL for none.
#[unsafe(no_mangle)]
pub extern "C" fn vmette_config_set_ca_certs(config: Option<&mut VmetteConfig>, path: Text) -> VmetteStatus {
    set(config, "vmette_config_set_ca_certs", |config| {
        config.grants.ca_certs = path.optional("path")?.map(Into::into);
        Ok(())
    })
}
