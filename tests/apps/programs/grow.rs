// Threads that push to vectors grown by realloc (and so by mremap), a panic caught at a join, and a child process.
use std::collections::HashMap;
use std::process::{exit, Command};
use std::thread;

fn grow(seed: u64) -> u64 {
    let mut sum = 0;
    for round in 0..4 {
        let mut values: Vec<u64> = Vec::new();
        for n in 0..400_000 {
            values.push(n * seed + round);
        }
        sum += values.iter().step_by(1000).sum::<u64>();
        values.truncate(100);
        values.shrink_to_fit();
        sum += values.len() as u64;
    }
    let mut table: HashMap<u64, String> = HashMap::new();
    for n in 0..20_000u64 {
        table.entry(n * 31 % 5000).or_default().push_str("text");
    }
    sum + table.values().map(|text| text.len() as u64).sum::<u64>()
}

fn main() {
    if std::env::args().len() > 1 {
        println!("child {}", grow(9));
        exit(3);
    }
    let threads: Vec<_> = (1..=6).map(|seed| thread::spawn(move || grow(seed))).collect();
    for handle in threads {
        println!("thread {}", handle.join().unwrap());
    }
    std::panic::set_hook(Box::new(|_| {}));
    let failed = thread::spawn(|| assert_eq!(grow(1), 0)).join().is_err();
    println!("panicked {}", failed);
    let child = Command::new(std::env::current_exe().unwrap()).arg("child").output().unwrap();
    print!("{}", String::from_utf8_lossy(&child.stdout));
    println!("{:?}", child.status.code());
    exit(12);
}
