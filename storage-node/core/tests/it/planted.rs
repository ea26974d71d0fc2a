//! Bugs planted into the work on layers, each of which one and the same story must find.

use std::panic::{AssertUnwindSafe, catch_unwind};

use sixfold_log_format::Lsn;
use sixfold_log_format::mutant::{Mutant, plant};
use sixfold_log_format::wire::{Message, PageAnswer, Refusal, Role, Survey};

use crate::file_heads::many_layers;
use crate::layers::{PAGES, check_all, check_at, load, node_with, say_heartbeat, small};
use crate::members::{begin, drop_as, finish, installed};
use crate::shell::Shell;
use crate::writer::{Writer, node, segment_id};

/// What a layer's life must survive: unsettled redo that is annulled later, a power cut, rot.
fn story() {
    let mut shell = node_with(small());
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 0);
    load(&mut shell, &mut writer, stream, 250);
    check_all(&mut shell, &writer, Lsn::NONE);
    let cut = writer.prev;
    // Nobody says that this is durable.
    for number in 0..150_u64 {
        let batch = writer.batch(&[2 + number % 8, 2, 3]);
        let append = writer.append(&batch);
        shell.say(stream, append);
        shell.work();
    }
    let scl = shell.status().segments[0].scl;
    shell.settle();
    let mut shell = shell.crash(&|_| false);
    shell.work();
    assert_eq!(shell.status().segments[0].scl, scl);
    // And it is not: the next writer cuts before it.
    let mut writer = writer.reopen(cut, 3);
    let stream = writer.attach(&mut shell, 0);
    say_heartbeat(&mut shell, &mut writer, stream);
    check_all(&mut shell, &writer, Lsn::NONE);
    load(&mut shell, &mut writer, stream, 60);
    let mut shell = shell.power_cut(&mut || false);
    shell.work();
    assert!(shell.errors().is_empty(), "{:?}", shell.logged);
    assert_eq!(shell.status().segments[0].scl, writer.prev);
    check_all(&mut shell, &writer, Lsn::NONE);
    rot(&shell, &writer);
}

/// Every layer with a flipped bit: its pages are right or refused.
fn rot(shell: &Shell, writer: &Writer) {
    let folded = writer.prev;
    for key in shell.layers.keys() {
        for at in (140..shell.layers[key].bytes.len()).step_by(211) {
            let mut layers = shell.layers.clone();
            let bytes = &mut layers.get_mut(key).unwrap().bytes;
            bytes[at] ^= 0x10;
            let mut shell = Shell::start(
                shell.found.clone(),
                shell.files.clone(),
                layers,
                shell.now + std::time::Duration::from_secs(1),
            );
            shell.settle();
            let Message::Pages(answer) = shell.ask(writer.read(0, &PAGES, folded, writer.prev))
            else {
                continue;
            };
            let refused = answer
                .pages
                .iter()
                .any(|page| matches!(page, PageAnswer::Refused(Refusal::Corrupt { .. })));
            if !refused {
                check_at(&mut shell, writer, folded).unwrap();
            }
        }
    }
}

#[test]
fn the_story_is_whole_without_a_bug() {
    story();
}

#[test]
fn each_planted_bug_of_the_layers_breaks_the_story() {
    for mutant in [
        Mutant::LayerAboveVdl,
        Mutant::CatalogBeforeSync,
        Mutant::CollectedEarly,
        Mutant::PgmrplIgnored,
        Mutant::TrimUnfolded,
        Mutant::StaleBlockAccepted,
    ] {
        plant(Some(mutant));
        let outcome = catch_unwind(AssertUnwindSafe(story));
        plant(None);
        assert!(outcome.is_err(), "{mutant:?} was not found");
    }
}

/// A segment is replaced, removed and dropped; whoever asks for it is told so, and a survey is nothing but a question.
fn membership_story() {
    let mut shell = node(5);
    let mut writer = Writer::first();
    let stream = writer.attach(&mut shell, 5);
    let batch = writer.batch(&[2, 3]);
    writer.ship(&mut shell, stream, &batch);
    let survey = || {
        Message::Survey(Survey {
            segment: segment_id(5),
        })
    };
    assert!(matches!(
        shell.ask_as(Role::Reader, survey()),
        Message::Census(_)
    ));
    let batch = writer.batch(&[2, 3]);
    assert_eq!(writer.ship(&mut shell, stream, &batch).scl, writer.prev);
    writer.manifest = finish(&begin(&writer.manifest, 5, 6), 5);
    installed(&mut shell, &writer, 5);
    let expected = Message::Refused(Refusal::StaleMembership {
        manifest: Box::new(writer.manifest.clone()),
    });
    assert_eq!(shell.ask_as(Role::Reader, survey()), expected);
    assert_eq!(drop_as(&mut shell, Role::Writer, 5), Message::Done);
    let mut shell = shell.crash(&|_| false);
    shell.settle();
    assert_eq!(shell.ask_as(Role::Reader, survey()), expected);
}

#[test]
fn the_membership_story_is_whole_without_a_bug() {
    membership_story();
}

#[test]
fn each_planted_bug_of_membership_breaks_its_story() {
    for mutant in [
        Mutant::TombstoneForgotten,
        Mutant::RemovedSegmentServes,
        Mutant::SurveyClaims,
    ] {
        plant(Some(mutant));
        let outcome = catch_unwind(AssertUnwindSafe(membership_story));
        plant(None);
        assert!(outcome.is_err(), "{mutant:?} was not found");
    }
}

#[test]
fn catalogs_that_nobody_judges_outgrow_the_head_of_a_file() {
    plant(Some(Mutant::HeadsOvergrown));
    let outcome = catch_unwind(AssertUnwindSafe(many_layers));
    plant(None);
    assert!(outcome.is_err(), "it was not found");
}
