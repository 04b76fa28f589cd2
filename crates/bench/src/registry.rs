//! A registry on the loopback interface, and the programs that copy to it and from it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use vmette_testing::registry::{self, Access};

use crate::layout;
use crate::peers::on_path;
use crate::program::Program;

pub(crate) use registry::CLIENT;

/// How long compressing and uploading a large image may take.
const PUSH_LIMIT: Duration = Duration::from_secs(600);

/// A running registry. Ended when dropped.
pub(crate) struct Registry {
    server: registry::Registry,
}

impl Registry {
    /// Starts one that keeps its content in `folder`. An error says what is missing.
    pub(crate) fn start(folder: &Path) -> anyhow::Result<Self> {
        for program in [CLIENT, registry::SERVER] {
            on_path(program).with_context(|| format!("{program} is not installed"))?;
        }
        Ok(Self { server: registry::Registry::start(folder, Access::default())? })
    }

    /// The name that an image has for everybody.
    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/{}", self.server.host(), in_registry(name))
    }

    /// Uploads the image of a layout, with its layers compressed by gzip.
    pub(crate) fn push(&self, layout: &Path, name: &str) -> anyhow::Result<()> {
        let push = self.server.push(layout, layout::TAG, &in_registry(name), &[]);
        program(&push)?.time_within(Stdio::null(), PUSH_LIMIT)?;
        Ok(())
    }

    /// The program that copies an image from here to a new layout.
    pub(crate) fn copy_to(&self, name: &str, layout: &Path) -> anyhow::Result<Program> {
        program(&self.server.pull(&in_registry(name), layout, layout::TAG))
    }
}

fn in_registry(name: &str) -> String {
    format!("bench/{name}:latest")
}

/// The same program as the benchmarks run it: without a search for it.
fn program(command: &Command) -> anyhow::Result<Program> {
    let name = command.get_program().to_string_lossy();
    let path = on_path(&name).with_context(|| format!("{name} is not installed"))?;
    Ok(Program::new(&path, command.get_args()))
}

/// How often the layers of a layout are compressed, as a check of what was uploaded.
pub(crate) fn ensure_compressed(layout: &Path) -> anyhow::Result<()> {
    let blobs = layout.join("blobs/sha256");
    let mut compressed = 0;
    for blob in fs::read_dir(&blobs)? {
        compressed += usize::from(fs::read(blob?.path())?.starts_with(&[0x1f, 0x8b]));
    }
    ensure!(compressed > 0, "{CLIENT} has uploaded layers that are not compressed");
    Ok(())
}
