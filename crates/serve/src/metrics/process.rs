//! What the process has used, as the system counts it, under the names that dashboards know.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Looks at this process whenever somebody scrapes.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let cpu = ConstCounter::new(engine::cpu::process_cpu().as_secs_f64());
        let help = "CPU time of all threads, in user and system mode.";
        cpu.encode(encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), cpu.metric_type())?)?;
        // Where the system does not tell, the series is not there, rather than wrong.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (name, field, help) in [
            ("process_resident_memory", "VmRSS:", "Memory in RAM, mapped weights included."),
            ("process_private_memory", "RssAnon:", "Memory in RAM that is nobody else's and no file's."),
        ] {
            let Some(bytes) = bytes_of(&status, field) else { continue };
            let bytes = ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
            bytes.encode(encoder.encode_descriptor(name, help, Some(&Unit::Bytes), bytes.metric_type())?)?;
        }
        Ok(())
    }
}

/// A size out of `/proc/self/status` (proc_pid_status(5)), which counts in KiB and writes kB.
fn bytes_of(status: &str, field: &str) -> Option<u64> {
    let kib: u64 =
        status.lines().find_map(|line| line.strip_prefix(field))?.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::bytes_of;

    #[test]
    fn sizes_are_read() {
        let status = "Name:\tx\nVmRSS:\t    2048 kB\nRssAnon:\t     120 kB\n";
        assert_eq!(bytes_of(status, "VmRSS:"), Some(2 << 20));
        assert_eq!(bytes_of(status, "RssAnon:"), Some(120 << 10));
        assert_eq!(bytes_of(status, "VmHWM:"), None);
    }
}
