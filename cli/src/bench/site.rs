//! Where a measure runs: a directory, a cluster of six node processes in it, and this process as the writer.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use sixfold::{Cluster, Database, Options};

use crate::child::{OwnedChild, stop_signal};
use crate::cluster_dir::{ClusterDir, LOOPBACK_MTU_BYTES, NODE_COUNT};

/// Size of a node's hot-log file, MiB.
const HOT_LOG_FILE_MIB: u64 = 64;

/// A running cluster. Its processes end and are reaped when it is dropped, and a temporary directory goes.
#[derive(Debug)]
pub(super) struct Site {
    root: PathBuf,
    cluster: Cluster,
    // Before the guard: what writes there ends first.
    _nodes: Vec<(usize, OwnedChild)>,
    _guard: Option<tempfile::TempDir>,
}

impl Site {
    async fn start(named: Option<&Path>, flags: &[&str]) -> Result<Site> {
        let (root, guard) = crate::demo::root_dir(named)?;
        let cluster_root = root.join("sixfold");
        std::fs::create_dir_all(&cluster_root)?;
        let dir = ClusterDir::at(&cluster_root)?;
        dir.lay_out(HOT_LOG_FILE_MIB)?;
        let indexes: Vec<usize> = (0..NODE_COUNT).collect();
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        Ok(Site {
            cluster: dir.cluster()?,
            _nodes: dir.start_nodes_with(&indexes, &flags).await?,
            root,
            _guard: guard,
        })
    }

    /// A directory beside the cluster's, for others on the same file system.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The cluster.
    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Its volume, with a page cache of this size.
    pub(super) fn options(&self, cache_mib: u64) -> Result<Options> {
        let cache_bytes = usize::try_from(cache_mib << 20)?;
        let options = Options::new(self.cluster.clone()).mtu_bytes(LOOPBACK_MTU_BYTES);
        Ok(options.cache_bytes(cache_bytes))
    }

    /// A volume with a page cache of this size.
    pub(super) async fn create_volume(&self, cache_mib: u64) -> Result<Database> {
        Ok(Database::create(self.options(cache_mib)?).await?)
    }
}

/// Starts a cluster, does something with it on this thread, and ends it, also at a signal. `flags`: of each node.
pub(super) fn on_a_cluster<T>(
    dir: Option<&Path>,
    flags: &[&str],
    work: impl AsyncFnOnce(&Site) -> Result<T>,
) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let work = async {
            let site = Site::start(dir, flags).await?;
            work(&site).await
        };
        tokio::select! {
            // Signals are waited for before there is anything to be left behind.
            biased;
            () = stop_signal(false) => bail!("interrupted"),
            done = work => done,
        }
    })
}
