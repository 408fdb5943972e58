//! The man page and the completions of `cp-ros2`. How they are generated is tested in the main package.

use std::collections::BTreeSet;
use std::process::Command;

use super::{NODE, text};

/// Runs the program, which must succeed without warnings, and returns its output.
fn output(args: &[&str]) -> String {
    let run = Command::new(NODE).args(args).output().unwrap();
    assert!(
        run.status.success() && run.stderr.is_empty(),
        "{args:?}: {}",
        text(&run)
    );
    String::from_utf8(run.stdout).unwrap()
}

/// The long options in a text.
fn options(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    words
        .filter(|word| word.len() > 4 && word.starts_with("--"))
        .collect()
}

#[test]
fn man_page_and_completions_contain_all_options() {
    let help = output(&["--help"]);
    assert!(!help.contains("--generate"), "{help}");
    // The usage line also names the ROS arguments, which are not clap's.
    let (_, help) = help.split_once("Options:").unwrap();
    let page = output(&["--generate", "man"]).replace("\\-", "-");
    assert!(page.contains(".TH cp-ros2 1 "), "{page}");
    let zsh = output(&["--generate", "complete-zsh"]);
    assert!(zsh.starts_with("#compdef cp-ros2"), "{zsh}");
    let fish = output(&["--generate", "complete-fish"]);
    let bash = output(&["--generate", "complete-bash"]);
    assert!(options(help).len() > 5, "{help}");
    for option in options(help) {
        for text in [&page, &zsh, &bash] {
            assert!(text.contains(option), "{option}: {text}");
        }
        assert!(fish.contains(&format!("-l {}", &option[2..])), "{option}");
    }
}

/// groff, with preconv as `man` runs it, has no complaints about the page.
#[test]
fn groff_accepts_the_man_page() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("cp-ros2.1");
    std::fs::write(&page, output(&["--generate", "man"])).unwrap();
    let run = Command::new("groff")
        .args(["-k", "-man", "-ww", "-Tutf8", "-P-cbou"])
        .arg(page)
        .env("LC_ALL", "C.UTF-8")
        .output();
    let Ok(run) = run else {
        println!("skipped: no groff");
        return;
    };
    assert!(
        run.status.success() && run.stderr.is_empty(),
        "{}",
        text(&run)
    );
}

#[test]
fn unknown_formats_are_usage_errors() {
    for wrong in [
        &["--generate"][..],
        &["--generate", "html"],
        &["--generate", "man", "none"],
    ] {
        let run = Command::new(NODE).args(wrong).output().unwrap();
        assert_eq!(run.status.code(), Some(2), "{wrong:?}: {}", text(&run));
        assert!(
            text(&run).starts_with("cp-ros2: --generate: "),
            "{}",
            text(&run)
        );
    }
}
