import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

/** Fills the heap from several threads, lets it go, and asks for collections so that memory is uncommitted. */
public final class Collect {
    private static long work(int seed) {
        Map<Integer, byte[]> kept = new HashMap<>();
        long total = 0;
        for (int step = 0; step < 3000; step++) {
            byte[] block = new byte[1000 + 977 * ((seed + step) % 31)];
            block[step % 1000] = (byte) seed;
            kept.put(step % 400, block);
            total += block.length + block[step % 1000];
        }
        return total + kept.size();
    }

    public static void main(String[] arguments) throws Exception {
        for (int round = 0; round < 3; round++) {
            ExecutorService pool = Executors.newFixedThreadPool(4);
            List<Callable<Long>> tasks = new ArrayList<>();
            for (int seed = 1; seed <= 8; seed++) {
                int own = seed * (round + 1);
                tasks.add(() -> work(own));
            }
            long total = 0;
            for (Future<Long> future : pool.invokeAll(tasks)) {
                total += future.get();
            }
            pool.shutdown();
            System.out.println("round " + round + " " + total);

            List<int[]> large = new ArrayList<>();
            for (int n = 0; n < 20; n++) {
                large.add(new int[500_000]);
                large.get(n)[n] = n;
            }
            long sum = 0;
            for (int n = 0; n < large.size(); n++) {
                sum += large.get(n)[n];
            }
            large = null;
            System.gc();
            System.out.println("large " + sum);
        }
        System.exit(11);
    }
}
