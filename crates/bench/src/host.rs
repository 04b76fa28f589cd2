//! The machine that the figures are from.

use std::fmt::Write as _;
use std::fs;
use std::thread;

use vmette::Report;

/// The facts about a host without which figures cannot be compared.
#[derive(Debug)]
pub(crate) struct Host {
    cpu: String,
    cores: usize,
    memory_mib: Option<u64>,
    kernel: String,
}

impl Host {
    /// This machine.
    pub(crate) fn here() -> Self {
        let uname = rustix::system::uname();
        let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            cpu: cpu_model(&read("/proc/cpuinfo")).unwrap_or("unknown").to_owned(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory_mib(&read("/proc/meminfo")),
            kernel: format!("{} {} {}", text(uname.sysname()), text(uname.release()), text(uname.machine())),
        }
    }

    /// Formats it as a table of two columns.
    pub(crate) fn to_markdown(&self, report: &Report, guest_kernel: &str, load: [&str; 2]) -> String {
        let memory = self.memory_mib.map_or("unknown".to_owned(), |mib| format!("{mib} MiB"));
        let rows = [
            ("CPU", format!("{}, {} cores", self.cpu, self.cores)),
            ("Memory", memory),
            ("Host kernel", self.kernel.clone()),
            ("Guest kernel", guest_kernel.to_owned()),
            ("Engine", report.engine.clone()),
            ("Accelerator", format!("{} ({})", report.accelerator, report.isolation)),
            ("Load average", format!("{} before, {} after", load[0], load[1])),
            ("vmette", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        let width = rows.iter().map(|(_, value)| value.len()).max().unwrap_or_default();
        let mut text = String::new();
        let _ = writeln!(text, "| {:12} | {:width$} |", "Machine", "");
        let _ = writeln!(text, "|{:-<14}|{:-<line$}|", "", "", line = width + 2);
        for (name, value) in rows {
            let _ = writeln!(text, "| {name:12} | {value:width$} |");
        }
        text
    }
}

/// How busy the machine was in the last minute.
pub(crate) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().filter(|load| !load.is_empty()).unwrap_or("unknown").to_owned()
}

/// x86 has a name for its model, arm64 often only numbers.
fn cpu_model(cpuinfo: &str) -> Option<&str> {
    let field = |name| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim())
    };
    field("model name").or_else(|| field("CPU part"))
}

fn memory_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_is_known_by_its_model_or_at_least_its_part() {
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: AMD EPYC\n"), Some("AMD EPYC"));
        assert_eq!(cpu_model("processor\t: 0\nCPU part\t: 0xd0c\n"), Some("0xd0c"));
        assert_eq!(cpu_model(""), None);
    }

    #[test]
    fn memory_is_in_mib() {
        assert_eq!(memory_mib("MemTotal:       24576000 kB\nMemFree: 1 kB\n"), Some(24000));
        assert_eq!(memory_mib("MemFree: 1 kB\n"), None);
    }
}
