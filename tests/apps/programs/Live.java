// Keeps so many MiB alive, replaces them a few times, and makes garbage in between.
public class Live {
    public static void main(String[] words) {
        int mebibytes = Integer.parseInt(words[0]);
        byte[][] kept = new byte[mebibytes * 16][];
        long sum = 0;
        for (int round = 0; round < 3; round++) {
            for (int at = 0; at < kept.length; at++) {
                kept[at] = new byte[(1 << 16) - 16];
                kept[at][at & 0xfff] = (byte) (at + round);
                byte[] garbage = new byte[1 << 14];
                sum += garbage.length + kept[at][at & 0xfff];
            }
        }
        for (byte[] each : kept) {
            for (byte one : each) {
                sum = sum * 31 + one;
            }
        }
        System.out.println(kept.length + " blocks, " + sum);
    }
}
