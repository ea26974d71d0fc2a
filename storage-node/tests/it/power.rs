//! Power cuts: a file system of its own in a loop device is shut down under a node at work, and mounted again. What was synced stays,
//! what was not goes, file names too.
//!
//! Needs root, loop devices and `mkfs`: where the host has none of it, these say so and check nothing.

#![allow(unsafe_code)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::ioctl::{Setter, ioctl};
use sixfold_log_format::Lsn;
use sixfold_log_format::wire::{Message, Role};
use sixfold_storage_node::inspect::{Inspection, Verdict};

use crate::client::{Client, bounded};
use crate::cluster::{Cluster, Daemon};
use crate::crash::shrunk;
use crate::script::{Draw, Script};

/// `EXT4_IOC_SHUTDOWN`, `XFS_IOC_GOINGDOWN`.
const SHUTDOWN: u32 = 0x8004_587d;
/// The journal is written once more before the end; without it what is only in memory is lost.
const WITH_LOG: u32 = 1;
const WITHOUT_LOG: u32 = 2;

fn command(name: &str, arguments: &[&str]) {
    let output = Command::new(name).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{name} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A file system in a file.
struct Volume {
    _directory: tempfile::TempDir,
    image: PathBuf,
    mount: PathBuf,
}

impl Volume {
    /// `None` where the host allows no such file system.
    fn new(kind: &str, mib: u64) -> Option<Volume> {
        let is_root = rustix::process::geteuid().is_root();
        let has_mkfs = ["/sbin", "/usr/sbin"]
            .iter()
            .any(|path| Path::new(path).join(format!("mkfs.{kind}")).exists());
        if !is_root || !has_mkfs || !Path::new("/dev/loop-control").exists() {
            println!("skipped: needs root, loop devices and mkfs.{kind}");
            return None;
        }
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let image = directory.path().join("image");
        File::create(&image).unwrap().set_len(mib << 20).unwrap();
        command(&format!("mkfs.{kind}"), &["-q", text(&image)]);
        let mount = directory.path().join("mount");
        std::fs::create_dir(&mount).unwrap();
        let volume = Volume {
            _directory: directory,
            image,
            mount,
        };
        volume.mount();
        Some(volume)
    }

    fn mount(&self) {
        command(
            "mount",
            &["-o", "loop", text(&self.image), text(&self.mount)],
        );
    }

    fn unmount(&self) {
        command("umount", &[text(&self.mount)]);
    }

    /// Nothing reaches the device any more.
    fn cut(&self, flags: u32) {
        let root = File::open(&self.mount).unwrap();
        // SAFETY: the operation reads one number, which lives until the call returns.
        unsafe { ioctl(&root, Setter::<SHUTDOWN, u32>::new(flags)) }.unwrap();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.mount).output();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn survives_power_cuts(kind: &str) {
    let Some(volume) = Volume::new(kind, 512) else {
        return;
    };
    let cluster = Cluster::new();
    let mut options = shrunk(cluster.options(1));
    options.data_dir = volume.mount.join("node");
    std::fs::create_dir(&options.data_dir).unwrap();
    // The directory itself is not the node's to sync.
    command("sync", &[]);
    let script = Script::new(29, 60, 1_500);
    let mut draw = Draw(7);
    let (mut acknowledged, mut layers) = (Lsn::NONE, 0);
    for round in 0..10 {
        let daemon = Daemon::start(options.clone()).unwrap();
        bounded(async {
            let client = Client::connect(&cluster, &daemon, Role::Writer).await;
            if round == 0 {
                assert_eq!(client.create_segment().await, Message::Done);
            }
            let held = client.attach().await.scl;
            assert!(held >= acknowledged, "{held} after {acknowledged}");
            if !held.is_none() {
                assert_eq!(script.check_pages(&client, held).await, []);
            }
            let batches = script.after(held);
            let count = 1 + draw.below(120) as usize;
            let until = batches[count.min(batches.len() - 1)].header().last;
            acknowledged = script.append_until(&client, until).await;
            volume.cut(if round % 2 == 0 {
                WITHOUT_LOG
            } else {
                WITH_LOG
            });
        });
        // A write may have failed in between, and then the node has ended itself.
        let _ = daemon.stop();
        volume.unmount();
        volume.mount();
        let found = Inspection::of(&options.data_dir).unwrap();
        assert_eq!(found.flaws, Vec::<String>::new());
        assert!(!matches!(found.verdict, Verdict::Corrupt { .. }));
        layers = layers.max(found.layers.iter().filter(|layer| layer.listed).count());
    }
    assert!(layers > 0, "no layer was ever written");
}

#[test]
fn acknowledged_redo_and_published_layers_survive_power_cuts_on_ext4() {
    survives_power_cuts("ext4");
}

#[test]
fn acknowledged_redo_and_published_layers_survive_power_cuts_on_xfs() {
    survives_power_cuts("xfs");
}

#[test]
fn a_full_disk_refuses_batches_keeps_reads_and_goes_on_when_there_is_space() {
    let Some(volume) = Volume::new("ext4", 256) else {
        return;
    };
    let cluster = Cluster::new();
    let mut options = shrunk(cluster.options(1));
    options.reserve_bytes = 24 << 20;
    options.data_dir = volume.mount.join("node");
    std::fs::create_dir(&options.data_dir).unwrap();
    let daemon = Daemon::start(options).unwrap();
    let script = Script::new(31, 60, 1_500);
    let filler = volume.mount.join("filler");
    bounded(async {
        let client = Client::connect(&cluster, &daemon, Role::Writer).await;
        assert_eq!(client.create_segment().await, Message::Done);
        let first = script.batches[200].header().last;
        let scl = script.append_until(&client, first).await;
        fill(&filler);
        // Whatever it takes until the node notices, it stays a node that answers.
        let refused = script.append_until_full(&client).await;
        assert!(refused >= scl);
        assert_eq!(script.check_pages(&client, refused).await, []);
        // A control entry still finds room.
        assert_eq!(client.attach().await.scl, refused);
        std::fs::remove_file(&filler).unwrap();
        let last = script.batches.last().unwrap().header().last;
        let scl = script.append_until(&client, last).await;
        assert_eq!(script.check_pages(&client, scl).await, []);
    });
    daemon.stop().unwrap();
}

/// Takes all the space that is left.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = File::create(path).unwrap();
    let zeros = vec![1; 1 << 20];
    while file.write_all(&zeros).is_ok() {}
    let small = vec![1; 4096];
    while file.write_all(&small).is_ok() {}
    let _ = file.sync_all();
}
