//! Room: what of it batches may take, what is given up when there is none, and which files a start will not need.
//!
//! Batches fill the second half of a file only when the next one is there. So claims, histories and manifests find room on a disk that
//! turns out to be full.

use sixfold_log_format::SegmentId;
use sixfold_log_format::hot_log::{Entry, FileNumber};

use super::HotLog;
use crate::bounds::CONTROL_BYTES_MAX;
use crate::hot_log::Ticket;

impl HotLog {
    /// Whether batches are taken. While the disk is full, half a file stays free for claims, histories and manifests.
    pub(crate) fn takes_batches(&self) -> bool {
        let taken = self.offset + self.queued_bytes as u64;
        !self.full || (self.current.is_some() && taken < self.file_bytes / 2)
    }

    /// Bytes that batches which are written once more may take. On a full disk they may pass the half of a file, since what they free is
    /// worth more, but leave room for what a claim or a manifest may take.
    pub(crate) fn copies_room(&self) -> u64 {
        if !self.full {
            return u64::MAX;
        }
        let kept = (CONTROL_BYTES_MAX as u64).min(self.file_bytes / 4);
        // What waits is padded to whole blocks, the copies too.
        let padded = self.group_bytes(self.queued_bytes) + 2 * u64::from(self.block_bytes);
        let left = self.file_bytes.saturating_sub(self.offset + kept + padded);
        if self.current.is_some() { left } else { 0 }
    }

    /// Whether so many bytes of entries, a batch at their end, may go into the current file: past its half only when there is a next one.
    /// What is left keeps claims, histories and manifests writable should the disk turn out to be full.
    pub(super) fn takes_now(&self, entries_bytes: usize) -> bool {
        let end = self.offset + self.group_bytes(entries_bytes);
        self.full || !self.ready.is_empty() || end <= self.file_bytes / 2
    }

    /// No next file could be made: batches that wait, and that would take more than batches may of the file at hand, are given up, the
    /// newest first. They would wait until somebody makes room, and claims behind them. Their tickets and segments, the newest first.
    pub(crate) fn give_up(&mut self) -> Vec<(Ticket, SegmentId)> {
        let room = match self.current {
            Some(_) => (self.file_bytes / 2).saturating_sub(self.offset),
            None => 0,
        };
        let (mut kept, mut given_up) = (0, Vec::new());
        for queued in std::mem::take(&mut self.queue) {
            let batch = match &queued.entry {
                Entry::Batch { segment, .. } => queued.ticket.map(|ticket| (ticket, *segment)),
                _ => None,
            };
            match batch {
                // Once one was given up all behind it are: a segment's batches become durable in order.
                Some(batch) if !given_up.is_empty() || kept + queued.bytes as u64 > room => {
                    self.queued_bytes -= queued.bytes;
                    given_up.push(batch);
                }
                _ => {
                    kept += queued.bytes as u64;
                    self.queue.push_back(queued);
                }
            }
        }
        self.left_count = self.left_count.min(self.queue.len());
        given_up.reverse();
        given_up
    }

    /// All redo that is durable in files before `needed` is in layers; in all but the current file for `None`.
    pub(crate) fn set_needed(&mut self, needed: Option<FileNumber>) {
        let Some(current) = &self.current else { return };
        // What comes yet goes into the current file or a later one.
        let needed = needed.unwrap_or(current.file).min(current.file);
        self.folded = FileNumber(needed.0.saturating_sub(1));
    }

    /// Of the files behind the next one's begin those that no start needs: the states at the head of the file behind them, and of the
    /// current one, are durable.
    pub(super) fn unneeded(&self) -> FileNumber {
        match &self.current {
            Some(current) if self.heads_missing == 0 => self
                .folded
                .min(FileNumber(current.file.0.saturating_sub(1))),
            _ => FileNumber(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use sixfold_log_format::hot_log::FileHeader;
    use sixfold_log_format::{NodeId, VolumeEpoch, WriterId};

    use super::*;
    use crate::bounds::Bounds;

    #[test]
    fn copies_leave_room_for_claims_on_a_full_disk() {
        let file_bytes = 64 << 10;
        let copy = || Entry::Batch {
            segment: SegmentId::default(),
            bytes: Bytes::from(vec![0; 1_000]),
        };
        for full in [false, true] {
            let mut log = HotLog::new(NodeId::default(), 512, file_bytes, &Bounds::default());
            log.current = Some(FileHeader {
                node: NodeId::default(),
                file: FileNumber(1),
                block_bytes: 512,
                first_sequence: 1,
                folded: FileNumber(0),
            });
            (log.offset, log.full) = (file_bytes / 2, full);
            let taken = (0..100)
                .take_while(|_| log.append_reserved(copy()).is_ok())
                .count();
            assert_eq!(taken < 16, full, "{taken} copies");
            assert!(taken > 8, "past the half of a file: {taken}");
            if full {
                let end = log.offset + log.group_bytes(log.queued_bytes);
                assert!(end + file_bytes / 4 <= file_bytes);
            }
            let claim = Entry::Claim {
                segment: SegmentId::default(),
                volume_epoch: VolumeEpoch::new(1),
                writer: WriterId::from_bytes([1; 16]),
            };
            assert!(log.append(claim).is_ok());
        }
    }
}
