use super::*;

#[test]
fn a_hot_log_name_is_sixteen_small_hexadecimal_digits() {
    let hot_log = Path::new("d");
    let number = FileNumber(0x1f);
    assert_eq!(
        file_path(hot_log, number),
        Path::new("d/000000000000001f.log")
    );
    assert_eq!(
        temporary_path(hot_log, number),
        Path::new("d/000000000000001f.log.tmp")
    );
    assert_eq!(number_in("000000000000001f.log", FILE_SUFFIX), Some(number));
    assert_eq!(
        number_in("000000000000001f.log.tmp", TEMPORARY_SUFFIX),
        Some(number)
    );
}

#[test]
fn other_names_are_no_hot_log_files() {
    let names = [
        "1f.log",
        "000000000000001F.log",
        "+00000000000001f.log",
        "0000000000000000.log",
        "000000000000001f.log.tmp",
        "000000000000001f",
        "0000000000000001f.log",
        ".log",
    ];
    for name in names {
        assert_eq!(number_in(name, FILE_SUFFIX), None, "{name}");
    }
}
