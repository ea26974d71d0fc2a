//! A slow device for some processes: the kernel lets them have so many writes a second, through a cgroup of the blkio controller
//! (version 1). That needs root and such a controller; where it lacks, the cases are skipped.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{major, minor, stat};

/// Where the controller is.
const ROOT: &str = "/sys/fs/cgroup/blkio";
/// Writes a second: one takes 50 ms.
const WRITES_PER_SECOND: u64 = 20;

/// Processes with a slow device. Dropped, they have a fast one again.
#[derive(Debug)]
pub(super) struct Throttle {
    group: PathBuf,
}

impl Throttle {
    /// Slows the device below `data_dir` down for these processes.
    pub(super) fn new(name: &str, data_dir: &Path, processes: &[u32]) -> Result<Throttle> {
        let group = Path::new(ROOT).join(format!("sixfold-{}-{name}", std::process::id()));
        std::fs::create_dir(&group).with_context(|| format!("cannot make {}", group.display()))?;
        // From here on it goes with this value.
        let throttle = Throttle { group };
        let device = device_of(data_dir)?;
        throttle.write(
            "blkio.throttle.write_iops_device",
            &format!("{device} {WRITES_PER_SECOND}"),
        )?;
        for process in processes {
            throttle.write("cgroup.procs", &process.to_string())?;
        }
        Ok(throttle)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.group.join(name);
        std::fs::write(&path, text)
            .with_context(|| format!("cannot write {text:?} to {}", path.display()))
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        let processes = std::fs::read_to_string(self.group.join("cgroup.procs"));
        for process in processes.unwrap_or_default().lines() {
            // One that has ended meanwhile is not to be moved.
            let _ = std::fs::write(Path::new(ROOT).join("cgroup.procs"), process);
        }
        if let Err(error) = std::fs::remove_dir(&self.group) {
            tracing::warn!(group = %self.group.display(), %error, "cannot remove a cgroup");
        }
    }
}

/// The whole device below a path, as `MAJOR:MINOR`.
fn device_of(path: &Path) -> Result<String> {
    let device = stat(path)
        .with_context(|| format!("cannot look at {}", path.display()))?
        .st_dev;
    let name = format!("{}:{}", major(device), minor(device));
    let link = Path::new("/sys/dev/block").join(&name);
    let entry = link
        .canonicalize()
        .with_context(|| format!("{} is on no block device", path.display()))?;
    let whole = match entry.join("partition").exists() {
        true => entry.parent().context("a partition without a device")?,
        false => &entry,
    };
    let text = std::fs::read_to_string(whole.join("dev"))?;
    Ok(text.trim().to_owned())
}

/// Why this host cannot do it, if it cannot.
pub(super) fn why_not(data_dir: &Path) -> Option<String> {
    let tried = Throttle::new("try", data_dir, &[]);
    let why = tried.err()?;
    Some(format!("no slow device: {}", crate::in_one_line(&why)))
}
