// Curator's InterProcessMutex, told what to do line by line.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.concurrent.TimeUnit;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.retry.RetryOneTime;

public class Peer {
    public static void main(String[] arguments) throws Exception {
        CuratorFramework client = CuratorFrameworkFactory.newClient(
                "127.0.0.1:" + arguments[0], 4000, 4000, new RetryOneTime(100));
        client.start();
        client.blockUntilConnected();
        InterProcessMutex lock = null;
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.split(" ");
            if (words[0].equals("acquire")) {
                lock = new InterProcessMutex(client, words[1]);
                long patience = (long) (Double.parseDouble(words[2]) * 1000);
                boolean taken = lock.acquire(patience, TimeUnit.MILLISECONDS);
                System.out.println(taken ? "yes" : "no");
            } else if (words[0].equals("release")) {
                lock.release();
                System.out.println("released");
            }
            System.out.flush();
        }
        client.close();
    }
}
