//! Man pages and shell completions, checked with their readers: groff (with preconv, as run by `man`) and bash.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Output, Stdio};

const PROGRAMS: &[(&str, &str)] = &[
    ("cp-infer", env!("CARGO_BIN_EXE_cp-infer")),
    ("cp-build", env!("CARGO_BIN_EXE_cp-build")),
    ("cp-bench", env!("CARGO_BIN_EXE_cp-bench")),
];

/// Runs a program, which must succeed without messages; returns its output.
fn output(program: &str, args: &[&str]) -> String {
    let run = Command::new(program).args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(
        run.status.success() && errors.is_empty(),
        "{program} {args:?}: {errors}"
    );
    String::from_utf8(run.stdout).unwrap()
}

/// Pipes `text` through a program.
fn through(program: &str, args: &[&str], text: &str) -> Output {
    let child = Command::new(program)
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let text = text.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let run = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    run
}

/// The long options in a text.
fn options(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
    let words = words.filter(|word| word.len() > 4 && word.starts_with("--"));
    words
        .map(|word| word.trim_end_matches('-').to_owned())
        .collect()
}

/// The subcommands of `cp-build`, from its help.
fn subcommands(help: &str) -> Vec<String> {
    let Some((_, list)) = help.split_once("Commands:\n") else {
        return Vec::new();
    };
    let lines = list.lines().take_while(|line| line.starts_with("  "));
    // Deeper lines continue a description.
    let lines = lines.filter(|line| !line.starts_with("   "));
    let names = lines.filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Checks a page: groff reports nothing, and the page has everything that the help lists.
fn check_page(page: &str, name: &str, help: &str) {
    assert!(
        page.contains(&format!(".TH {name} 1 ")),
        "{name}: {}",
        &page[..page.len().min(300)]
    );
    let run = through("groff", &["-k", "-man", "-ww", "-Tutf8", "-P-cbou"], page);
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(
        run.status.success() && errors.is_empty(),
        "{name}: {errors}"
    );
    let text = String::from_utf8(run.stdout)
        .unwrap()
        .replace('\u{2010}', "-");
    // Lines are broken at hyphens.
    let text = text.replace("-\n", "-");
    let joined: String = text.split_whitespace().collect();
    for option in options(help) {
        assert!(joined.contains(&option), "{name}: no {option} in\n{text}");
    }
}

#[test]
#[ignore = "needs groff"]
fn man_pages_list_all_options() {
    for (name, program) in PROGRAMS {
        let help = output(program, &["--help"]);
        assert!(!help.contains("--generate"), "{help}");
        check_page(&output(program, &["--generate", "man"]), name, &help);
        for subcommand in subcommands(&help) {
            let help = output(program, &[&subcommand, "--help"]);
            let page = output(program, &["--generate", "man", &subcommand]);
            check_page(&page, &format!("{name}-{subcommand}"), &help);
        }
    }
    let build = output(PROGRAMS[1].1, &["--help"]);
    assert!(subcommands(&build).len() > 7, "{build}");
}

#[test]
fn bash_completes_options_and_values() {
    for (words, expected) in [
        (&["cp-infer", "--eng"][..], "--engine"),
        (&["cp-infer", "--format", "nus"], "nuscenes"),
        (&["cp-bench", "--deadl"], "--deadline-ms"),
        (&["cp-build", "quan"], "quantize"),
        (&["cp-build", "quantize", "--recip"], "--recipe"),
    ] {
        let program = PROGRAMS
            .iter()
            .find(|(name, _)| *name == words[0])
            .unwrap()
            .1;
        let script = output(program, &["--generate", "complete-bash"]);
        let last = words.len() - 1;
        let (name, word, before) = (words[0], words[last], words[last - 1]);
        let words = words.join(" ");
        let ask = format!(
            "{script}\nCOMP_WORDS=({words})\nCOMP_CWORD={last}\n\
             [[ $(complete -p {name}) =~ -F' '([^ ]+) ]] && ${{BASH_REMATCH[1]}} {name} '{word}' '{before}'\n\
             echo \"found: ${{COMPREPLY[*]}}\"\n"
        );
        let run = through("bash", &["--norc"], &ask);
        let found = String::from_utf8(run.stdout).unwrap();
        let errors = String::from_utf8_lossy(&run.stderr);
        assert_eq!(found, format!("found: {expected}\n"), "{words:?}: {errors}");
    }
}

#[test]
fn other_shells_complete_all_options() {
    for (name, program) in PROGRAMS {
        let help = output(program, &["--help"]);
        // The text before may mention options that are not clap's.
        let (_, help) = help.split_once("Options:").unwrap();
        let fish = output(program, &["--generate", "complete-fish"]);
        let zsh = output(program, &["--generate", "complete-zsh"]);
        assert!(zsh.starts_with(&format!("#compdef {name}")), "{zsh}");
        for option in options(help) {
            assert!(zsh.contains(&option), "{name}: {option}");
            assert!(
                fish.contains(&format!("-l {}", &option[2..])),
                "{name}: {option}"
            );
        }
        for wrong in [
            &["--generate"][..],
            &["--generate", "html"],
            &["--generate", "man", "none"],
        ] {
            let run = Command::new(program).args(wrong).output().unwrap();
            let errors = String::from_utf8_lossy(&run.stderr);
            assert_eq!(run.status.code(), Some(2), "{wrong:?}: {errors}");
            assert!(
                errors.starts_with(&format!("{name}: --generate: ")),
                "{errors}"
            );
        }
    }
}
