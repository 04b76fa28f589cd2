//! `vmette image`: what the cache has, and what is to be in it.

mod args;
mod describe;
mod table;

use serde::Serialize;
use vmette::provider::{
    BuildOptions, ImageDetails, Images, ProviderError, PruneOptions, PruneReport, Removed,
};
use vmette::{HostOptions, StopHandle};

use crate::network_args::NetworkArgs;
use crate::progress::{self, Display};
use crate::signals::RunSignals;
use crate::stdio::{print_out, say};
use crate::{exit, interruptible};

pub(crate) use args::ImageCommand;
use args::{BuildArgs, ExportArgs, ImportArgs, InspectArgs, ListArgs, PruneArgs, PullArgs, RemoveArgs};

/// What a command has to say on stdout, and the errors that it met and went on after.
#[derive(Default)]
struct Outcome {
    out: String,
    errors: Vec<ProviderError>,
}

/// Carries the command out; returns the exit status.
pub(crate) fn image(command: ImageCommand) -> u8 {
    match command {
        ImageCommand::Ls(args) => on_cache(move |images| list(images, &args)),
        ImageCommand::Pull(PullArgs { output, network, images }) => {
            with_progress(output.quiet, network, move |cache| pull(cache, &images, output.json))
        }
        ImageCommand::Inspect(args) => on_cache(move |images| inspect(images, &args)),
        ImageCommand::Rm(args) => on_cache(move |images| remove(images, &args)),
        ImageCommand::Prune(args) => on_cache(move |images| prune(images, &args)),
        ImageCommand::Build(args) => {
            with_progress(args.output.quiet, NetworkArgs::default(), move |images| build(images, args))
        }
        ImageCommand::Import(args) => {
            with_progress(args.output.quiet, NetworkArgs::default(), move |images| import(images, &args))
        }
        ImageCommand::Export(args) => on_cache(move |images| export(images, &args)),
    }
}

type Work = Result<Outcome, ProviderError>;

/// Without progress to speak of.
fn on_cache(work: impl FnOnce(&Images) -> Work + Send + 'static) -> u8 {
    with_progress(true, NetworkArgs::default(), work)
}

fn with_progress(
    quiet: bool,
    network: NetworkArgs,
    work: impl FnOnce(&Images) -> Work + Send + 'static,
) -> u8 {
    match attempt(quiet, network, work) {
        Ok(code) => code,
        Err(e) => {
            say(&format!("error: {}", exit::message(&e)));
            exit::FAILURE
        }
    }
}

fn attempt(
    quiet: bool,
    network: NetworkArgs,
    work: impl FnOnce(&Images) -> Work + Send + 'static,
) -> anyhow::Result<u8> {
    let stop = StopHandle::new();
    let signals = RunSignals::install(stop.clone(), None)?;
    let mut host = HostOptions::default();
    network.apply(&mut host);
    let display = Display::new(if quiet { progress::Verbosity::Warnings } else { progress::Verbosity::All });
    let context = vmette::provider_context(&host, display.reporter(), &stop)?;
    let images = Images::open(&context)?;
    let done = interruptible::until_cancelled(&signals, None, move || work(&images));
    display.clear();
    let Some(outcome) = done? else {
        return Ok(signals.fatal().map_or(exit::FAILURE, exit::signalled));
    };
    let Outcome { out, errors } = outcome?;
    print_out(&out);
    for error in &errors {
        say(&format!("error: {}", exit::of_provider(error)));
    }
    Ok(if errors.is_empty() { 0 } else { exit::FAILURE })
}

fn list(images: &Images, args: &ListArgs) -> Work {
    let found = images.list()?;
    let out = if args.json {
        json(&found)?
    } else if args.quiet {
        let mut ids: Vec<_> = found.iter().map(|image| image.id.as_str()).collect();
        // An image with several names is listed under each of them.
        let mut seen = std::collections::HashSet::new();
        ids.retain(|id| seen.insert(*id));
        lines(ids)
    } else {
        table::of(&found)
    };
    Ok(Outcome { out, ..Outcome::default() })
}

/// All of them, whatever becomes of one.
fn pull(cache: &Images, specs: &[String], as_json: bool) -> Work {
    let mut errors = Vec::new();
    let mut pulled = Vec::new();
    for spec in specs {
        match cache.pull(spec) {
            Ok(details) => pulled.push(details),
            Err(ProviderError::Cancelled) => return Err(ProviderError::Cancelled),
            Err(e) => errors.push(e),
        }
    }
    let out =
        if as_json { json(&pulled)? } else { lines(pulled.iter().map(|image| image.summary.id.as_str())) };
    Ok(Outcome { out, errors })
}

fn inspect(images: &Images, args: &InspectArgs) -> Work {
    let (found, errors) = apart(args.images.iter().map(|name| images.inspect(name)));
    let out = if args.json { json(&found)? } else { describe::all(&found) };
    Ok(Outcome { out, errors })
}

fn remove(images: &Images, args: &RemoveArgs) -> Work {
    let (removed, errors) = apart(images.remove(&args.images, args.force));
    let out = if args.json { json(&removed)? } else { removed.iter().map(removed_line).collect() };
    Ok(Outcome { out, errors })
}

fn removed_line(removed: &Removed) -> String {
    match &removed.image {
        Some(id) => {
            format!("{}: removed, {} ({})\n", removed.name, table::short(id), table::size(removed.bytes))
        }
        None => format!("{}: the name is gone, the image has others\n", removed.name),
    }
}

fn prune(images: &Images, args: &PruneArgs) -> Work {
    let report = images.prune(&PruneOptions { all: args.all, max_bytes: args.max_size })?;
    let out = if args.json { json(&report)? } else { pruned(&report) };
    Ok(Outcome { out, ..Outcome::default() })
}

fn pruned(report: &PruneReport) -> String {
    let mut text = lines(report.images.iter().map(String::as_str));
    text.push_str(&format!(
        "removed {} and {}, {} freed; {} left\n",
        count(report.images.len(), "image"),
        count(report.layers, "layer"),
        table::size(report.bytes),
        table::size(report.left)
    ));
    text
}

fn count(number: usize, of: &str) -> String {
    if number == 1 { format!("1 {of}") } else { format!("{number} {of}s") }
}

fn build(images: &Images, args: BuildArgs) -> Work {
    let details = images.build_debian(&BuildOptions {
        include: args.include,
        mirrors: args.mirror,
        variant: args.variant.into(),
        components: args.components,
        ..BuildOptions::new(args.debian, args.tag)
    })?;
    made(&details, args.output.json)
}

fn import(images: &Images, args: &ImportArgs) -> Work {
    made(&images.import(&args.path, &args.tag)?, args.output.json)
}

fn made(details: &ImageDetails, as_json: bool) -> Work {
    let out = if as_json { json(details)? } else { lines([details.summary.id.as_str()]) };
    Ok(Outcome { out, ..Outcome::default() })
}

fn export(images: &Images, args: &ExportArgs) -> Work {
    let exported = images.export(&args.image, &args.output, args.format.into())?;
    let out = if args.json {
        json(&exported)?
    } else {
        format!("{} ({})\n", exported.path.display(), table::size(exported.bytes))
    };
    Ok(Outcome { out, ..Outcome::default() })
}

/// What went well, and what did not.
fn apart<T>(results: impl IntoIterator<Item = Result<T, ProviderError>>) -> (Vec<T>, Vec<ProviderError>) {
    let (mut fine, mut errors) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(value) => fine.push(value),
            Err(e) => errors.push(e),
        }
    }
    (fine, errors)
}

fn json(value: &impl Serialize) -> Result<String, ProviderError> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|e| ProviderError::Other(format!("the answer cannot be written as JSON: {e}")))
}

fn lines<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    items.into_iter().fold(String::new(), |mut text, item| {
        text.push_str(item);
        text.push('\n');
        text
    })
}
