//! vmette runs untrusted work in a Linux microVM of its own: no network, no host files until they are granted, gone
//! when it is done.
//!
//! ```no_run
//! let mut config = vmette::Config::default();
//! config.command.shell = Some("uname -a; exit 7".into());
//! let output = vmette::run_captured(&config)?;
//! assert_eq!(output.exit_code, 7);
//! # Ok::<(), vmette::Error>(())
//! ```
//!
//! [`run`] is one command from start to end. A [`Session`] is a machine that stays: commands with streams
//! ([`SessionHandle::exec`]), files in and out, requests of the desktop's protocol. Everything is blocking and may be used
//! from any thread; no signal handler is installed and the terminal is never touched.
//!
//! What the guest can reach of the host is what the [`Config`] names, and nothing else; [`Session::report`] says what a
//! session really had, and whether hardware or an emulator stood between it and the host.
#![forbid(unsafe_code)]

pub mod assets;
mod ca;
mod capture;
mod command;
mod config;
mod connection;
pub mod doctor;
mod end;
mod engine;
mod error;
mod files;
mod folder_stamps;
mod guest_text;
mod identity;
mod launch;
mod notice;
mod process;
mod pump;
mod report;
mod resolved;
mod rootfs;
mod run;
mod session;
mod snapshot;
mod stop_signal;
mod stream;
mod template;
mod validate;
mod vsock;
mod waiting;

pub use ca::default_ca_certs;
pub use capture::RunOutput;
pub use config::{
    CommandOptions, Config, DEFAULT_CMDLINE, DEFAULT_MEM_MIB, DEFAULT_VCPUS, GrantOptions, HostOptions,
    MachineOptions, RootOptions, Rootfs, RootfsBlock, RootfsShare, ShareMount, SnapshotOptions, VsockConnect,
    VsockForward, VsockOptions, VsockPort, WorkloadStrategy,
};
pub use end::{SessionEnd, StopHandle};
pub use error::{ConfigError, Error, Quantity, Remedy, RestoreError, SaveError, StartError, VsockError};
pub use files::FileInfo;
pub use notice::{Notice, Observer};
pub use process::{Collected, ExecOptions, Output, Process};
pub use pump::{CAPTURE_MAX, forward};
pub use report::{
    Grants, Report, RootfsKind, RootfsReport, ShareGrant, StartedFrom, Timings, VsockGrant, VsockGrantForward,
};
pub use rootfs::{provider_context, resolve_rootfs, resolve_rootfs_until};
pub use run::{run, run_captured};
pub use session::{Session, SessionBuilder, SessionHandle, Started};
pub use snapshot::{Snapshot, SnapshotInfo};
pub use validate::{MEM_MIB_MAX, MEM_MIB_MIN, SCRATCH_MIB_MAX, SCRATCH_MIB_MIN, VCPUS_MAX, is_valid_env_key};
pub use vmette_image::{BlockFs, ImageConfig, NetworkOptions, PullPolicy, RootfsArtifact};
pub use vmette_vmm::{Accelerator, AcceleratorChoice, Console, Isolation, VsockListener, VsockStream};
pub use vmette_wire::streams::{ExitStatus, FailureKind};
pub use vmette_wire::{Action, ResponseHeader, ScrollDirection};
pub use waiting::Waiting;

/// From a rootfs spec to an artifact.
pub mod provider {
    pub use vmette_image::{
        ArchiveError, BUILTIN_SPEC, BadDigest, BadKey, BadLimit, BlockFs, BuildOptions, BuiltinProvider,
        Context, DebianVariant, Description, Digest, DirProvider, ExportFormat, Exported, FileError,
        ImageConfig, ImageDetails, ImageError, ImageKind, ImageSummary, Images, Item, Key, LayerInfo,
        LocalImageProvider, NameRecord, NetworkError, NetworkOptions, OciProvider, Origin, PROGRESS_STEP,
        Platform, Progress, ProviderError, PruneOptions, PruneReport, PruneRules, Pruned, PullPolicy,
        Refusal, Registry, Removed, Reporter, Result, RootfsArtifact, RootfsProvider, SquashfsProvider,
        Store, StoreError, StoreHold, StoredImage, SuperblockError, TarLimits, TarProvider, Unpackable,
        VOLUMES_MAX, builtin_rootfs, default_registry, find_busybox, printable,
    };
    pub use vmette_work::{Cancel, Work};
}

/// Work that can be cancelled and tells its progress.
pub mod work {
    pub use vmette_work::{Cancel, Cancelled, Item, Progress, Reporter, Work};
}

/// The engines' seam, for embedders that bring their own.
pub mod engine_api {
    pub use vmette_vmm::{
        Accelerator, AcceleratorChoice, Capabilities, Console, ControlStream, Device, DeviceId, Disk, Error,
        Frames, Framing, Hypervisor, Isolation, Mac, Machine, MachineEnd, MachineSpec, Network, Origin,
        Result, Saved, SavedState, Share, Slot, Support, TimedOut, VsockListener, VsockStream, checks,
        devices, fake, is_shortage,
    };
}

/// The frame codec of the desktop's protocol.
pub mod desktop {
    pub use vmette_wire::frame::{Frame, FrameError, HEADER_MAX, PAYLOAD_MAX, read_frame, write_frame};
    pub use vmette_wire::message::encode_response;
}
