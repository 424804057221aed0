# Hashes and strings that grow, sorting, regular expressions, fork and pipes, and an exit status.
use strict;
use warnings;

my %count;
$count{ $_ * 7919 % 1013 } .= "$_," for 1 .. 40_000;
my @longest = sort { length $count{$b} <=> length $count{$a} || $a <=> $b } keys %count;
print "longest @longest[0 .. 4] ", length $count{ $longest[0] }, "\n";

my $text = join ' ', map { "word$_" } 1 .. 30_000;
my $changes = ( $text =~ s/word(\d*)7\b/<$1>/g );
print "changes $changes ", length $text, "\n";

my $big = 'x';
$big .= $big for 1 .. 22;
print "big ", length $big, "\n";
undef $big;

for my $n ( 1 .. 4 ) {
    pipe my $in, my $out or die $!;
    my $child = fork // die $!;
    if ( !$child ) {
        close $in;
        my @own = map { $_ * $n } 1 .. 50_000;
        print {$out} "child $n ", $own[-1], "\n";
        close $out;
        exit $n;
    }
    close $out;
    print <$in>;
    waitpid $child, 0;
    print "status ", $? >> 8, "\n";
}
print "shell ", `echo hello | tr a-z A-Z`;
exit 5;
