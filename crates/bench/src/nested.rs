//! The times that the test suite's KVM lane has left: few hosts that run this have a KVM of their own.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

use crate::stats::Samples;

/// Milliseconds until a machine on KVM was ready.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) cold: Samples,
    pub(crate) template: Samples,
}

#[derive(Deserialize)]
struct Times {
    cold_ms: f64,
    template_ms: Vec<f64>,
}

/// Reads what the lane has written.
pub(crate) fn read(path: &Path) -> anyhow::Result<Lane> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} holds no times of the KVM lane", path.display()))
}

fn parse(text: &str) -> serde_json::Result<Lane> {
    let times: Times = serde_json::from_str(text)?;
    Ok(Lane {
        cold: [times.cold_ms].into_iter().collect(),
        template: times.template_ms.into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lanes_times_are_read() {
        let lane = parse(r#"{"cold_ms":9000.5,"template_ms":[900.0,700.0,800.0]}"#).unwrap();
        assert_eq!(lane.cold.summary().unwrap().median, 9000.5);
        assert_eq!(lane.template.summary().unwrap().median, 800.0);
        assert!(parse("{}").is_err());
    }
}
