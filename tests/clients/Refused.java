import java.io.IOException;
import java.util.Map;
import org.apache.hc.client5.http.classic.methods.HttpPost;
import org.apache.hc.client5.http.impl.classic.CloseableHttpClient;
import org.apache.hc.client5.http.impl.classic.HttpClients;
import org.apache.hc.core5.http.ContentType;
import org.apache.hc.core5.http.io.entity.EntityUtils;
import org.apache.hc.core5.http.io.entity.StringEntity;

/** Are a refusal and the order behind it answered, as the pool of Apache HttpClient sees it? */
public class Refused {
    static final int ROUNDS = 100;
    static final int[] SIZES = {2, 9_000, 100_000, 1_000_000, 3_000_000};
    static final ContentType JSON = ContentType.APPLICATION_JSON;
    static final String PATH = "/package/orderPackage";
    static final Map<String, String> NOBODY = Map.of();
    static final Map<String, String> BEARER = Map.of("Authorization", "Bearer " + System.getenv("TOKEN"));
    static final Map<String, String> PAGE =
        Map.of("Authorization", BEARER.get("Authorization"), "Origin", "http://evil.example");

    record Request(int status, String path, ContentType type, Map<String, String> headers) {}

    static final Request[] REFUSED = {
        new Request(401, PATH, JSON, NOBODY),
        new Request(403, PATH, JSON, PAGE),
        new Request(404, "/package/unlisted", JSON, BEARER),
        new Request(415, PATH, ContentType.TEXT_PLAIN, BEARER),
    };
    static final Request ORDER = new Request(200, PATH, JSON, BEARER);

    static boolean isLost(CloseableHttpClient client, Request request, String body) {
        HttpPost post = new HttpPost(System.getenv("GATEWAY") + request.path);
        request.headers.forEach(post::setHeader);
        post.setEntity(new StringEntity(body, request.type));
        try {
            return client.execute(post, answer -> {
                EntityUtils.consume(answer.getEntity());
                return answer.getCode();
            }) != request.status;
        } catch (IOException lost) {
            return true;
        }
    }

    public static void main(String[] arguments) throws IOException {
        int refusals = 0, orders = 0;
        try (CloseableHttpClient client = HttpClients.createDefault()) {
            for (int round = 0; round < ROUNDS; round++) {
                String body = " ".repeat(SIZES[round % SIZES.length]);
                if (isLost(client, REFUSED[round % REFUSED.length], body)) refusals++;
                if (isLost(client, ORDER, System.getenv("ORDER"))) orders++;
            }
        }
        System.out.printf("of %d, refusals lost: %d, orders lost: %d%n", ROUNDS, refusals, orders);
        System.exit(refusals + orders > 0 ? 1 : 0);
    }
}
