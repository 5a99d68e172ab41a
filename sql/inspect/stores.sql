-- The stores of this shard, and which of them are the big ones. For a replica of a busy shard: it counts row by row.
-- 1. The twenty stores with the most rows. Bad: one that has a large part of all (share_percent): it may need a shard of
--    its own (flask shards move).
WITH counted AS (
    SELECT store_id, count(*) AS products, 0 AS customers, 0 AS orders, 0 AS lines FROM products GROUP BY store_id
    UNION ALL
    SELECT store_id, 0, count(*), 0, 0 FROM customers GROUP BY store_id
    UNION ALL
    SELECT store_id, 0, 0, count(*), 0 FROM orders GROUP BY store_id
    UNION ALL
    SELECT store_id, 0, 0, 0, count(*) FROM order_items GROUP BY store_id
), by_store AS (
    SELECT store_id, sum(products) AS products, sum(customers) AS customers, sum(orders) AS orders, sum(lines) AS lines,
           sum(products + customers + orders + lines) AS rows
    FROM counted
    GROUP BY store_id
)
SELECT store_id, s.name, s.epoch, coalesce(b.products, 0) AS products, coalesce(b.customers, 0) AS customers,
       coalesce(b.orders, 0) AS orders, coalesce(b.lines, 0) AS order_lines, coalesce(b.rows, 0) AS rows,
       round(100 * coalesce(b.rows, 0) / nullif(sum(b.rows) OVER (), 0), 1) AS share_percent
FROM stores AS s
FULL JOIN by_store AS b USING (store_id)
ORDER BY rows DESC, store_id
LIMIT 20;

-- 2. The shard as a whole. Bad: orphans above 0: rows of a store that does not live here (name is empty above); a move
--    that was cut short left them, or is not over yet.
SELECT (SELECT count(*) FROM stores) AS stores,
       (SELECT max(epoch) FROM stores) AS newest_epoch,
       (SELECT count(*) FROM (SELECT store_id FROM orders UNION SELECT store_id FROM order_items
                              UNION SELECT store_id FROM idempotency_keys EXCEPT SELECT store_id FROM stores) AS o) AS orphans;
