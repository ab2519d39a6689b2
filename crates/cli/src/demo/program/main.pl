# Uses modules of the standard library, reads the files of a list, and prints what it saw.
use strict;
use warnings;

my @modules = qw(Carp Config Cwd Data::Dumper Encode Errno Exporter Fcntl File::Basename
    File::Copy File::Find File::Glob File::Path File::Spec File::Temp Getopt::Long Hash::Util
    IO::File IO::Handle IO::Select IO::Socket IPC::Open3 List::Util POSIX Scalar::Util Socket
    Storable Symbol Text::ParseWords Text::Tabs Text::Wrap Tie::Hash Time::HiRes Time::Local
    constant integer overload utf8 vars);
my $imported = 0;
for my $module (@modules) {
    $imported++ if eval "require $module; 1";
}
my ($files, $size, $sum) = (0, 0, 0);
open(my $names, '<', '/app/files') or die "/app/files: $!";
while (my $name = <$names>) {
    chomp $name;
    open(my $file, '<:raw', $name) or die "$name: $!";
    my $content = do { local $/; <$file> } // '';
    $files++;
    $size += length $content;
    $sum = ($sum * 31 + unpack('%32C*', $content)) % 4294967291;
}
print "modules=$imported files=$files bytes=$size sum=$sum\n";
